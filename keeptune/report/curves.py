"""Learning curves: loss by step on one axis, and the events that happened on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.report import svg
from keeptune.report.html import Markup, element
from keeptune.report.language import say

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 270, 64, 780, 34, 206
SERIES = (("loss", "training loss"), ("dev_loss", "loss on dev"), ("kl_to_base", "KL to base"))
GAUGE = (
    ("guard_target", "target on dev"),
    ("guard_forgotten", "forgotten"),
    ("guard_leak", "format leak"),
    ("guard_kl_to_base", "KL to base, nats"),
)


def curves(metrics: Sequence[Mapping[str, Any]]) -> Markup:
    """One picture per stage; a stage without numbers is left out."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in metrics:
        stages.setdefault(str(row.get("stage", "train")), []).append(row)
    drawn = [
        picture
        for name, rows in stages.items()
        for shown, what in ((SERIES, "Loss"), (GAUGE, "What the guard saw"))
        if (picture := _stage(name, rows, shown, what))
    ]
    return Markup("".join(drawn)) if drawn else element("p", say("No training was recorded."), class_="note")


def _stage(name: str, rows: Sequence[Mapping[str, Any]], shown: Sequence[tuple[str, str]], what: str) -> Markup | None:
    series = {
        label: [(float(r["step"]), float(r[key])) for r in rows if isinstance(r.get(key), (int, float))]
        for key, label in shown
    }
    series = {label: values for label, values in series.items() if len(values) > 1}
    if not series:
        return None
    steps = [x for values in series.values() for x, _ in values]
    across = svg.Axis(min(steps), max(steps), LEFT, RIGHT)
    lowest = min(0.0, *(y for values in series.values() for _, y in values))
    up = svg.Axis(lowest * 1.08, max(y for values in series.values() for _, y in values) * 1.08 + 1e-9, BOTTOM, TOP)
    parts: list[object] = [*svg.bottom_axis(across, BOTTOM, say("step"), "{:g}"), *svg.left_axis(up, LEFT, "", "{:g}")]
    for index, (label, values) in enumerate(series.items()):
        parts.append(svg.path([(across(x), up(y)) for x, y in values], f"trail series-{index}"))
        parts.append(svg.mark(LEFT + 16 + 190 * index, TOP - 18, svg_shape(index), f"mark series-{index}", 5))
        parts.append(svg.text(LEFT + 28 + 190 * index, TOP - 14, say(label), "row"))
    losses = what == "Loss"
    title = say("Loss by step in stage {name}", name=name) if losses else say("What the guard saw, by step")
    head = say("Stage: {name}", name=name) if losses else say("Stage: {name}, what the guard saw", name=name)
    drawing = svg.picture(WIDTH, HEIGHT, title, parts)
    return Markup(element("h3", head) + element("div", drawing, class_="figure"))


def svg_shape(index: int) -> str:
    """The mark of a series; shapes differ as well as colours."""
    return ("circle", "square", "diamond", "triangle")[index % 4]
