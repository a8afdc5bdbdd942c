"""Runs side by side: one picture of what each gained and lost, and retention at a matched target score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.report.frontier import Path as RunPath
from keeptune.report.frontier import frontier
from keeptune.report.gain import change_label, from_to, reached_label, reached_text, toward
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.page import document
from keeptune.report.plane import Point, plane, point_of
from keeptune.report.run_files import RunFiles
from keeptune.report.sentence import verdict_sentence
from keeptune.report.words import SIGN, number, percent, points, seconds
from keeptune.statistics.interpolate import retention_at

# What is lost, and how it reads: key of a trail row, label, sign that makes larger worse, the part of the certificate.
LOSSES = (
    ("leak", "unrelated instructions answered in the training format, %", "leak"),
    ("general", "general ability lost, points", "pooled"),
)


@dataclass(frozen=True)
class Entry:
    """One run of the comparison."""

    name: str
    certificate: Mapping[str, Any]
    trail: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, run: RunFiles) -> Entry:
        """The entry of a run folder."""
        name = str(run.recipe.get("name") or run.folder.name)
        return cls(name, run.certificate, tuple(toward(run.certificate.get("target") or {}, run.trail)))

    @property
    def target(self) -> Mapping[str, Any]:
        """The certificate's part of that name."""
        return self.certificate.get("target") or {}


def compare_page(entries: Sequence[Entry], *, title: str, lead: str = "") -> str:
    """The whole page as text."""
    matched = matched_score(entries)
    body = [
        element("p", lead or "Runs compared on the same items.", class_="kicker"),
        element("h1", title),
        _pictures(entries, matched),
        element("h2", "The verdicts"),
        _verdicts(entries),
        element("h2", "At a matched target score") if matched is not None else None,
        _matched(entries, matched) if matched is not None else None,
        element("h2", "Gained and kept, with intervals"),
        _plane(entries),
        element("h2", "What each certificate says"),
        [_statement(entry) for entry in entries],
    ]
    return document(f"keeptune: {title}", body)


def matched_score(entries: Sequence[Entry]) -> float | None:
    """The highest target score that every run with a trail reached on dev; None without at least two trails."""
    reached = [max(row["target"] for row in entry.trail) for entry in entries if len(entry.trail) > 1]
    return min(reached) if len(reached) > 1 else None


def matched_rows(entries: Sequence[Entry], level: float) -> list[dict[str, Any]]:
    """What each run had lost where it first reached `level` (linear between checkpoints; measured on dev)."""
    rows = []
    for entry in entries:
        if len(entry.trail) < 2:
            continue
        targets = [row["target"] for row in entry.trail]
        at = {
            key: retention_at(targets, [row[key] for row in entry.trail], level)
            for key in ("leak", "general", "bits_per_byte")
            if all(row.get(key) is not None for row in entry.trail)
        }
        start = entry.trail[0]
        rows.append({"name": entry.name, "base": {key: start.get(key) for key in at}, "at": at})
    return rows


def _pictures(entries: Sequence[Entry], matched: float | None) -> Markup:
    drawn = []
    for key, label, part in LOSSES:
        paths = [path for entry in entries if (path := _path(entry, key, part))]
        if paths:
            limits = [_part(entry, part).get("margin") for entry in entries]
            limit = next((value for value in limits if value is not None), None)
            drawn.append(element("h3", label[0].upper() + label[1:]))
            axis = reached_label(entries[0].target)
            drawn.append(frontier(paths, label, limit=limit, matched=matched, reached=axis))
    return Markup("".join(drawn))


def _path(entry: Entry, key: str, part: str) -> RunPath | None:
    rows = [row for row in entry.trail if row.get(key) is not None]
    if not rows:
        return None
    start = rows[0][key]
    sign = -1.0 if part == "pooled" else 1.0
    return RunPath(entry.name, tuple((row["target"], sign * (row[key] - start)) for row in rows))


def _part(entry: Entry, part: str) -> Mapping[str, Any]:
    if part == "leak":
        return (entry.certificate.get("format") or {}).get("leak") or {}
    return (entry.certificate.get("retention") or {}).get("pooled") or {}


def _verdicts(entries: Sequence[Entry]) -> Markup:
    head: list[object] = [
        "run",
        "verdict",
        "target",
        "general, pooled",
        "format leak",
        "worst corpus",
        "trained",
        "time",
    ]
    rows: list[list[object]] = []
    for entry in entries:
        pooled, leak = _part(entry, "pooled"), _part(entry, "leak")
        corpora = (entry.certificate.get("retention") or {}).get("corpora") or []
        worst = max((corpus["delta"] for corpus in corpora if corpus.get("delta") is not None), default=None)
        verdict = entry.certificate["verdict"]
        spent = entry.certificate.get("cost") or {}
        taken = spent.get("seconds")
        rows.append([
            element("b", entry.name), element("span", f"{SIGN[verdict]} {verdict}", class_=f"state {verdict.lower()}"),
            from_to(entry.target),
            f"{points(pooled.get('delta'))} ({points(pooled.get('low'))}, {points(pooled.get('high'))})",
            f"{percent(leak.get('base'))} → {percent(leak.get('adapted'))}",
            "–" if worst is None else f"{points(worst)}%",
            f"{spent.get('trainable_parameters'):,}" if spent.get("trainable_parameters") is not None else "–",
            seconds(sum(taken.values()) if isinstance(taken, Mapping) else taken),
        ])  # fmt: skip
    return table(head, rows, numeric=frozenset({2, 3, 4, 5, 6, 7}))


def _matched(entries: Sequence[Entry], level: float) -> Markup:
    head: list[object] = ["run", "format leak", "general, pooled", "bits per byte"]
    rows: list[list[object]] = []
    for row in matched_rows(entries, level):
        at, base = row["at"], row["base"]
        change = at["general"] - base["general"] if at.get("general") is not None else None
        rows.append([
            element("b", row["name"]), f"{percent(base.get('leak'))} → {percent(at.get('leak'))}",
            f"{points(change)} points", f"{number(base.get('bits_per_byte'))} → {number(at.get('bits_per_byte'))}",
        ])  # fmt: skip
    where = reached_text(entries[0].target, level)
    text = f"Where each run first {where} on dev, read between checkpoints (small samples)."
    return Markup(element("p", text, class_="lead") + table(head, rows, numeric=frozenset({1, 2, 3})))


def _plane(entries: Sequence[Entry]) -> Markup:
    found: list[Point] = [point for entry in entries if (point := point_of(entry.certificate, entry.name))]
    margins = [_part(entry, "pooled").get("margin") for entry in entries]
    margin = next((margin for margin in margins if margin is not None), None)
    return plane(found, margin=margin, gain=change_label(entries[0].target))


def _statement(entry: Entry) -> Markup:
    return folded(entry.name, element("p", verdict_sentence(entry.certificate)))
