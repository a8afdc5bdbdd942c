"""Items that flipped: what the base got right and the adapted model does not, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keeptune.report.html import Markup, element, folded
from keeptune.report.language import say

SHOWN, LONGEST = 20, 420


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
    """Two folded lists, side by side answers; at most twenty of each, spread over the tasks."""
    lost, won = [f for f in flips if f.lost], [f for f in flips if not f.lost]
    parts = []
    for title, chosen in ((say("Right before, wrong now"), lost), (say("Wrong before, right now"), won)):
        some = _spread(chosen)
        cards = [_card(flip) for flip in some] or [element("p", say("None."), class_="note")]
        told = say("{title}: {count} items", title=title, count=len(chosen))
        less = say(", {count} shown", count=len(some)) if len(some) < len(chosen) else ""
        parts.append(folded(told + less, cards))
    return Markup("".join(parts))


def _spread(flips: list[Flip]) -> list[Flip]:
    """Takes items from the tasks in turn, so that a large task does not fill the list."""
    by_task: dict[str, list[Flip]] = {}
    for flip in flips:
        by_task.setdefault(flip.task, []).append(flip)
    chosen: list[Flip] = []
    while by_task and len(chosen) < SHOWN:
        for task in list(by_task):
            chosen.append(by_task[task].pop(0))
            if not by_task[task]:
                del by_task[task]
    return chosen[:SHOWN]


def _card(flip: Flip) -> Markup:
    def answer(name: str, text: str) -> Markup:
        return element("div", element("span", name, class_="who"), element("span", _short(text), class_="said"))

    return element(
        "article",
        element("header", flip.task),
        element("p", _short(flip.prompt), class_="prompt"),
        element("div", answer(say("expected"), flip.gold) if flip.gold else None, answer(say("base"), flip.base),
                answer(say("adapted"), flip.adapted), class_="answers"),
        class_="flip",
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
