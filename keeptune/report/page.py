"""The certificate page: one file that opens offline, prints, and puts the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keeptune.core.files import atomic_write
from keeptune.report import sections
from keeptune.report.curves import curves
from keeptune.report.diagnosis import diagnosis
from keeptune.report.flips import find_flips, flip_section
from keeptune.report.forest import forest
from keeptune.report.gain import change_label, toward
from keeptune.report.html import Markup, element
from keeptune.report.language import Language, say, speaking
from keeptune.report.luck import luck
from keeptune.report.on_task import on_task
from keeptune.report.plane import Point, plane, point_of
from keeptune.report.run_files import RunFiles, read_run
from keeptune.report.sentence import verdict_sentence
from keeptune.report.words import SIGN

# Nothing is fetched and nothing runs: the page is text, styles and drawings.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_certificate(folder: Path, language: Language = "en") -> Path:
    """Writes `certificate.html` of a finished run and returns its path."""
    target = folder / "certificate.html"
    atomic_write(target, certificate_page(read_run(folder), language=language))
    return target


def certificate_page(run: RunFiles, rivals: Sequence[Point] = (), language: Language = "en") -> str:
    """The whole page as text; `rivals` are other models to draw beside this one."""
    with speaking(language):
        return _page(run, rivals, language)


def _page(run: RunFiles, rivals: Sequence[Point], language: Language) -> str:
    certificate = run.certificate
    name = str(run.recipe.get("name") or run.folder.name)
    here = point_of(certificate, name, _trail(run))
    pooled = (certificate.get("retention") or {}).get("pooled") or {}
    gain = change_label(certificate.get("target") or {})
    recipe_file = run.folder / "recipe.yaml"
    recipe_text = recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else ""
    body = [
        _verdict(certificate, name),
        sections.facts(certificate),
        sections.rule(certificate),
        _section(say("Gained and kept"),
                 plane([here, *rivals], margin=pooled.get("margin"), gain=gain) if here else None,
                 say("To the right: better at the task. Down: general ability lost. The base stands at the origin.")),
        _section(say("On the task"), on_task(certificate)),
        _section(say("What was kept, ability by ability"), forest(certificate),
                 say("Each line is a 90% interval; its worse end is the one-sided 95% bound held against the margin.")),
        _section(say("Kinds of change"), sections.kinds_of_change(certificate) if certificate.get("drift") else None),
        _section(say("Kinds of loss"), diagnosis(certificate["diagnosis"]) if certificate.get("diagnosis") else None,
                 say("What a model says, what it knows, and what comes back after 50 steps on the base's own answers.")
                 ),
        _section(say("Items that flipped"), flip_section(find_flips(run.items)) if run.items else None,
                 say("The same prompt, answered before and after. Equal accuracy with many flips is drift, too.")),
        _section(say("Learning"), [curves(run.metrics), sections.event_list(run.events)] if run.metrics else None),
        _section(say("Data"), sections.data_counts(run.data) if run.data else None),
        _section(say("Is it luck?"), luck(certificate)),
        _section(say("Cost"), sections.cost(certificate)),
        _section(say("Use it"), sections.commands(run.folder, certificate)),
        _section(say("Reproduce"),
                 [sections.provenance(certificate, run.recipe, recipe_text), sections.download(certificate)]),
    ]  # fmt: skip
    return document(say("keeptune certificate: {name}", name=name), body, language)


def document(title: str, body: Sequence[object], language: str = "en") -> str:
    """A complete HTML file around a body."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    page = element("html", head, element("body", element("main", body)), lang=language)
    return f"<!doctype html>\n{page}\n"


def _verdict(certificate: dict[str, object], name: str) -> Markup:
    verdict = str(certificate["verdict"])
    badge = element("div", SIGN[verdict], " ", say(verdict), class_=f"badge {verdict.lower()}", role="status")
    kicker = element(
        "p",
        say("Certificate of {name}", name=name) + " · " + say(str(certificate.get("scope", "this checkpoint"))),
        class_="kicker",
    )
    return Markup(kicker + badge + element("h1", verdict_sentence(certificate)))


def _section(title: str, content: object, lead: str = "") -> Markup | None:
    if not content:
        return None
    return element("section", element("h2", title), element("p", lead, class_="lead") if lead else None, content)


def _trail(run: RunFiles) -> list[tuple[float, float]]:
    """Checkpoints between base and end as changes from the base; both ends are drawn from the proof itself."""
    target = run.certificate.get("target") or {}
    rows = [row for row in toward(target, run.trail) if row.get("general") is not None]
    return [(row["target"] - rows[0]["target"], row["general"] - rows[0]["general"]) for row in rows[1:-1]]
