"""The quieter sections of the page: what follows from the verdict, data, cost, provenance, what to do next."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keeptune.core.typed import typed
from keeptune.report.gain import change
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.language import say
from keeptune.report.run_files import made_by
from keeptune.report.words import amount, number, percent, points, seconds


def facts(certificate: Mapping[str, Any]) -> Markup:
    """Four numbers under the verdict."""
    target = certificate.get("target") or {}
    pooled = (certificate.get("retention") or {}).get("pooled") or {}
    leak = (certificate.get("format") or {}).get("leak") or {}
    cards: list[tuple[str, str]] = []
    if target:
        cards.append(
            (
                change(target),
                say(
                    "target, n = {n} ({low} to {high})",
                    n=target.get("n"),
                    low=points(target.get("low")),
                    high=points(target.get("high")),
                ),
            )
        )
    if pooled:
        low, high = points(pooled.get("low")), points(pooled.get("high"))
        change_ = say("{change} points", change=points(pooled.get("delta")))
        cards.append((change_, say("general ability, pooled ({low} to {high})", low=low, high=high)))
    if leak:
        shown = f"{percent(leak.get('base'))} → {percent(leak.get('adapted'))}"
        cards.append((shown, say("unrelated instructions answered in the training format")))
    share = (certificate.get("cost") or {}).get("trainable_share")
    trained = (certificate.get("cost") or {}).get("trainable_parameters")
    if trained is not None:
        shown = f"{trained:,}" + (f" ({100 * share:.3g}%)" if share else "")
        cards.append((shown, say("trained parameters")))
    return element(
        "div", [element("div", element("b", b), element("span", s), class_="fact") for b, s in cards], class_="facts"
    )


RELEASE = {"PASS": "Release: yes", "FAIL": "Release: no", "UNDECIDED": "Release: not yet"}


def rule(certificate: Mapping[str, Any]) -> Markup | None:
    """What follows from the verdict, and the rule behind it."""
    margins = certificate.get("margins")
    if not margins:
        return None
    shown = {key: f"{100 * margins[key]:g}" for key in ("pooled", "task", "corpus", "leak")}
    told = say(
        "Kept means: with at most 5% risk of error, the loss in points is below {pooled} pooled, below {task} on every "
        "task and below {leak} of format leak, and bits per byte rise by less than {corpus}% on every corpus.",
        **shown,
    )
    if certificate.get("selection") is not None:
        told += " " + say("The margins were fixed before training.")
    else:
        told += " " + say("The margins were fixed before either model was measured.")
    single = ", ".join(f"{name} {100 * margin:g}" for name, margin in (margins.get("tasks") or {}).items())
    told += " " + say("Margins of single tasks, points: {single}.", single=single) if single else ""
    return element("p", element("b", say(RELEASE[str(certificate["verdict"])])), " · ", told, class_="note rule")


def download(certificate: Mapping[str, Any]) -> Markup:
    """The certificate's JSON inside the page."""
    packed = base64.b64encode(json.dumps(certificate, ensure_ascii=False).encode()).decode()
    address = f"data:application/json;base64,{packed}"
    return element("p", element("a", say("Download certificate.json"), href=address, download="certificate.json"))


def kinds_of_change(certificate: Mapping[str, Any]) -> Markup:
    """Drift and format, told apart."""
    drift = certificate.get("drift") or {}
    rows: list[list[object]] = []
    for where in ("task", "generic"):
        part = drift.get(where) if isinstance(drift.get(where), dict) else None
        if part:
            rows.append(
                [say(f"{where} prompts"), number(part.get("kl_to_base"), 4), percent(part.get("top1_agreement"))]
            )
    if not rows and drift:
        rows.append([say("all prompts"), number(drift.get("kl_to_base"), 4), percent(drift.get("top1_agreement"))])
    return table(
        [say("measured on"), say("KL to base, nats per token"), say("same first choice as the base")],
        rows,
        numeric=frozenset({1, 2}),
    )


def data_counts(data: Mapping[str, Any]) -> Markup:
    """Rows of each source: read, kept, dropped, cut."""
    sources = data.get("sources") or {}
    if not sources:
        return element("p", say("No data was read by this run."), class_="note")
    keys = ("read", "kept", "dropped", "cut", "train", "dev", "test", "tokens", "learned_tokens")
    used = [key for key in keys if any(key in counts for counts in sources.values())]
    rows: list[list[object]] = [[name, *[_count(counts.get(key)) for key in used]] for name, counts in sources.items()]
    read = table(
        [say("source"), *[say(key.replace("_", " ")) for key in used]], rows, numeric=frozenset(range(1, len(used) + 1))
    )
    seen = data.get("contamination")
    return Markup("".join([read, seen_in_training(seen)])) if seen else read


def seen_in_training(parts: Sequence[Mapping[str, Any]]) -> Markup:
    """How many of the measured items training has seen; the parts by themselves when it has seen any."""
    kinds = ("exact", "near", "ngram")
    items = sum(part["items"] for part in parts)
    found = sum(part[kind] for part in parts for kind in kinds)
    if not found:
        return element(
            "p", say("Of the {items} items of the proof, training has seen none.", items=f"{items:,}"), class_="note"
        )
    rows: list[list[object]] = [
        [part["measured"], f"{part['items']:,}", *[part[kind] for kind in kinds]]
        for part in parts
        if any(part[kind] for kind in kinds)
    ]
    titles = [say(title) for title in ("measured", "items", "asked in training", "nearly", "13 words in a row")]
    told = say("Of the {items} items of the proof, training has seen {found}", items=f"{items:,}", found=f"{found:,}")
    return folded(told, table(titles, rows, numeric=frozenset({1, 2, 3, 4})))


def cost(certificate: Mapping[str, Any]) -> Markup:
    """Time, memory and size."""
    spent = certificate.get("cost") or {}
    rows: list[list[object]] = []
    taken = spent.get("seconds")
    if isinstance(taken, Mapping):
        rows += [[say("time: {name}", name=say(name)), seconds(value)] for name, value in taken.items()]
    else:
        rows.append([say("time"), seconds(taken)])
    rows.append([say("peak memory"), amount(spent.get("peak_bytes"))])
    if spent.get("training_peak_bytes") is not None:
        rows.append([say("peak memory in training"), amount(spent["training_peak_bytes"])])
    rows.append([say("forecast of it"), amount(spent.get("forecast_bytes"))])
    if spent.get("trainable_parameters") is not None:
        rows.append([say("trained parameters"), f"{spent['trainable_parameters']:,}"])
    return table(["", ""], rows)


def provenance(certificate: Mapping[str, Any], recipe: Mapping[str, Any], recipe_text: str) -> Markup:
    """Everything that another person needs to get the same result."""
    known = dict(certificate.get("provenance") or {})
    if reason := known.pop("dtype_reason", None):
        known["dtype"] = f"{known['dtype']}: {'; '.join(map(say, reason.split('; ')))}"
    rows: list[list[object]] = [
        [say(key.replace("_", " ")), element("code", _plain(value))]
        for key, value in known.items()
        if value is not None and key != "contamination"
    ]
    parts = [table(["", ""], rows)]
    if recipe_text or recipe:
        parts.append(folded(say("The resolved recipe"), element("pre", recipe_text)))
    return Markup("".join(parts))


def commands(folder: Path, certificate: Mapping[str, Any]) -> Markup:
    """What to do with the result."""
    shown = Path(folder.parent.name, folder.name) if folder.parent.name == "runs" else Path(folder.name)
    lines = [typed("keeptune", "compare", shown, "OTHER_RUN")]
    made = made_by(folder, certificate)
    if made is not None:
        speaks = certificate.get("drift") is not None
        verbs = [verb for verb in ("chat", "merge", "export") if speaks or verb != "chat"]
        lines += [typed("keeptune", verb, shown / made) for verb in verbs]
    limits = say(
        "What this does not say: nothing is proven about abilities that no item asks for, about other languages than "
        "those of the items, or about safety."
    )
    return Markup(element("pre", "\n".join(lines)) + element("p", limits, class_="note"))


INCIDENTS = frozenset(
    {"step_skipped", "rolled_back", "commit_skipped", "commit_refused", "forked", "not_exact", "damaged", "died"}
    | {
        "out_of_memory",
        "optimizer_replaced",
        "nothing_is_learning",
        "stopped_early",
        "budget_spent",
        "gate",
        "wise_ft",
        "tracker_failed",
    }
)


def event_list(events: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Warnings and incidents of the run; nothing when all was quiet."""
    told = [event for event in events if event.get("kind") in INCIDENTS]
    if not told:
        return None
    rows: list[list[object]] = [
        [event.get("time"), event.get("kind"), _plain({k: v for k, v in event.items() if k not in ("time", "kind")})]
        for event in told[:50]
    ]
    return folded(
        say("Events during the run: {count}", count=len(told)), table([say("time"), say("kind"), say("what")], rows)
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "–" if value is None else str(value)


def _plain(value: object) -> str:
    """Nested values in one readable line."""
    if isinstance(value, Mapping):
        return "; ".join(
            f"{str(key).replace('_', ' ')}: {_plain(inner)}" for key, inner in value.items() if inner is not None
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
