"""Kinds of loss on the page: the finding in words, then the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report.html import Markup, element, folded, table
from keeptune.report.language import say
from keeptune.report.words import number, percent, points

ROWS = (
    ("said", "chat questions answered freely"),
    ("known", "the same questions by likelihood"),
    ("represented", "questions that a probe of the states answers"),
)
BEHAVIOUR = {
    "training_like": "answers that look like the training answers",
    "refusal": "refusals",
    "han": "answers in Chinese characters",
    "json": "answers that are JSON",
}


def diagnosis(found: Mapping[str, Any]) -> Markup:
    """Sentences, what is said against what is known, behaviour on unrelated requests, what fell."""
    rows: list[list[object]] = [_row(say(label), found[key]) for key, label in ROWS if found.get(key)]
    rows += [
        _row(say("answered freely after {shots} shown", shots=shots), part)
        for shots, part in (found.get("shots") or {}).items()
        if part
    ]
    behaviour = found.get("behaviour") or {}
    rows += [_row(say(label), behaviour[key]) for key, label in BEHAVIOUR.items() if behaviour.get(key)]
    parts = [element("p", say(sentence)) for sentence in found["sentences"]]
    parts.append(
        table(["", say("base"), say("adapted"), say("change, points (90%)")], rows, numeric=frozenset({1, 2, 3}))
    )
    learned: list[list[object]] = [
        _row(name.replace("_", " "), part) for name, part in (found.get("in_context") or {}).items() if part
    ]
    if learned:
        titles = [
            say("classes learned from examples of each"),
            say("base"),
            say("adapted"),
            say("change, points (90%)"),
        ]
        parts.append(folded(say("In-context learning"), table(titles, learned, numeric=frozenset({1, 2, 3}))))
    parts.append(_facts(found))
    if found.get("lost"):
        fell: list[list[object]] = [
            [part["name"], _fell(part, "delta"), _fell(part, "delta_after"), say(part["after_recovery"])]
            for part in found["lost"]
        ]
        parts.append(
            table(
                [say("fell"), say("change"), say("after the recovery"), say("so it is")],
                fell,
                numeric=frozenset({1, 2}),
            )
        )
    return Markup("".join(parts))


def _fell(part: Mapping[str, Any], key: str) -> str:
    """Points of accuracy; percent of a corpus's bits per byte, where more is worse."""
    return points(part[key]) + "%" * (part.get("kind") == "corpus" and part[key] is not None)


def _facts(found: Mapping[str, Any]) -> Markup:
    """Single numbers: the gap, what came back, the length of answers, the base without its adapter."""
    behaviour = found.get("behaviour") or {}
    facts: list[list[object]] = []
    gap = found.get("format_gap")
    if gap:
        facts.append([say("format gap: known and no longer said"), say("{change} points", change=_change(gap))])
    facts += _states(found)
    if found.get("recovered_share") is not None:
        facts.append([say("of the lost answers, back after the recovery"), percent(found["recovered_share"])])
    if behaviour.get("words"):
        words = behaviour["words"]
        facts.append([say("words per answer"), f"{number(words['base'], 1)} → {number(words['adapted'], 1)}"])
    if found.get("prompted_leak") is not None:
        facts.append([say("format leak with the task's prompt on"), percent(found["prompted_leak"])])
    if found.get("detach") is not None:
        same = say("bitwise the base") if found["detach"] else say("NOT the base")
        facts.append([say("with the adapter taken off"), same])
    return table(["", ""], facts) if facts else Markup("")


def _states(found: Mapping[str, Any]) -> list[list[object]]:
    """The states' gap, how many questions would tell it, and the tasks of which the states told nothing."""
    rows: list[list[object]] = []
    gap = found.get("states_gap")
    if gap:
        told = say("{change} points, {n} questions", change=_change(gap), n=gap["n"])
        needed = found.get("states_gap_items")
        if needed and gap["low"] <= 0 <= gap["high"]:
            told += say("; about {items} would tell it from none", items=f"{needed:,}")
        rows.append([say("states' gap: held and no longer put out"), told])
    silent = [
        say("{name} (about {items} questions)", name=one["name"], items=f"{one['items_needed']:,}")
        if one["items_needed"] else one["name"]
        for one in found.get("represented_left_out") or []
    ]  # fmt: skip
    if silent:
        rows.append([say("states no better than guessing; what would tell them"), ", ".join(silent)])
    return rows


def _row(label: str, part: Mapping[str, Any]) -> list[object]:
    return [label, percent(part["base"]), percent(part["adapted"]), _change(part)]


def _change(part: Mapping[str, Any]) -> str:
    ends = say("{low} to {high}", low=points(part["low"]), high=points(part["high"]))
    return f"{points(part['delta'])} ({ends})"
