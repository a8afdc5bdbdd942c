"""Items that flipped: what the base got right and the adapted model does not, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keeptune.report.html import Markup, element, folded
from keeptune.report.language import say

SHOWN, LONGEST = 10, 420


@dataclass(frozen=True)
class Flip:
    """One item whose score changed between base and adapted."""

    task: str
    prompt: str
    gold: str
    base: str
    adapted: str
    lost: bool


def find_flips(items: Iterable[Mapping[str, Any]]) -> list[Flip]:
    """Pairs the records by (task, id) and keeps those whose binary score changed; targets and leaks included."""
    sides: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for item in items:
        sides.setdefault((item["task"], item["id"]), {})[item["checkpoint"]] = item
    flips = []
    for (task, _), pair in sides.items():
        base, adapted = pair.get("base"), pair.get("adapted")
        if base is None or adapted is None or base["score"] == adapted["score"]:
            continue
        if {base["score"], adapted["score"]} <= {0.0, 1.0}:
            lost = adapted["score"] < base["score"]
            flips.append(Flip(task, base["prompt"], base["gold"], base["prediction"], adapted["prediction"], lost))
    return flips


def flip_section(flips: list[Flip]) -> Markup:
    """Two folded lists, each with a fold for every task, the one with the most flips first; some of its answers."""
    parts = []
    for title, lost in ((say("Right before, wrong now"), True), (say("Wrong before, right now"), False)):
        by_task: dict[str, list[Flip]] = {}
        for flip in flips:
            if flip.lost == lost:
                by_task.setdefault(flip.task, []).append(flip)
        count = sum(map(len, by_task.values()))
        told = _counted(title, count)
        ordered = sorted(by_task.items(), key=lambda pair: -len(pair[1]))
        parts.append(folded(told, [_task(*pair) for pair in ordered] or element("p", say("None."), class_="note")))
    return Markup("".join(parts))


def _counted(title: str, count: int) -> str:
    if count == 1:
        return say("{title}: 1 item", title=title)
    return say("{title}: {count} items", title=title, count=count)


def _task(name: str, flips: list[Flip]) -> Markup:
    told = _counted(name, len(flips))
    less = say(", {count} shown", count=SHOWN) if len(flips) > SHOWN else ""
    return folded(told + less, [_card(flip) for flip in flips[:SHOWN]], class_="task")


def _card(flip: Flip) -> Markup:
    def answer(name: str, text: str) -> Markup:
        return element("div", element("span", name, class_="who"), element("span", _short(text), class_="said"))

    return element(
        "article",
        element("p", _short(flip.prompt), class_="prompt"),
        element("div", answer(say("expected"), flip.gold) if flip.gold else None, answer(say("base"), flip.base),
                answer(say("adapted"), flip.adapted), class_="answers"),
        class_="flip",
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
