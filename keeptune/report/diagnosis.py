"""Kinds of loss on the page: the finding in words, then the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report.html import Markup, element, table
from keeptune.report.words import number, percent, points

ROWS = (
    ("said", "chat questions answered freely"),
    ("known", "the same questions by likelihood"),
)
BEHAVIOUR = {
    "training_like": "answers that look like the training answers",
    "refusal": "refusals",
    "han": "answers in Chinese characters",
    "json": "answers that are JSON",
}


def diagnosis(found: Mapping[str, Any]) -> Markup:
    """Sentences, what is said against what is known, behaviour on unrelated requests, what fell."""
    rows: list[list[object]] = [_row(label, found[key]) for key, label in ROWS if found.get(key)]
    rows += [
        _row(f"answered freely after {shots} shown", part) for shots, part in (found.get("shots") or {}).items() if part
    ]
    behaviour = found.get("behaviour") or {}
    rows += [_row(label, behaviour[key]) for key, label in BEHAVIOUR.items() if behaviour.get(key)]
    parts = [element("p", sentence) for sentence in found["sentences"]]
    parts.append(table(["", "base", "adapted", "change, points (90%)"], rows, numeric=frozenset({1, 2, 3})))
    facts: list[list[object]] = []
    gap = found.get("format_gap")
    if gap:
        facts.append(["format gap: known and no longer said", f"{_change(gap)} points"])
    if found.get("recovered_share") is not None:
        facts.append(["of the lost answers, back after the recovery", percent(found["recovered_share"])])
    if behaviour.get("words"):
        words = behaviour["words"]
        facts.append(["words per answer", f"{number(words['base'], 1)} → {number(words['adapted'], 1)}"])
    if found.get("detach") is not None:
        same = "bitwise the base" if found["detach"] else "NOT the base"
        facts.append(["with the adapter taken off", same])
    if facts:
        parts.append(table(["", ""], facts))
    if found.get("lost"):
        fell: list[list[object]] = [
            [part["name"], points(part["delta"]), points(part["delta_after"]), part["after_recovery"]]
            for part in found["lost"]
        ]
        parts.append(table(["fell", "change", "after the recovery", "so it is"], fell, numeric=frozenset({1, 2})))
    return Markup("".join(parts))


def _row(label: str, part: Mapping[str, Any]) -> list[object]:
    return [label, percent(part["base"]), percent(part["adapted"]), _change(part)]


def _change(part: Mapping[str, Any]) -> str:
    return f"{points(part['delta'])} ({points(part['low'])} to {points(part['high'])})"
