"""The target-retention plane: what was gained to the right, what was lost downwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.report import svg
from keeptune.report.gain import gained
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.language import say
from keeptune.report.words import points

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 430, 84, 780, 46, 360
SHAPES = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Point:
    """A model on the plane; values and interval ends are fractions, relative to the base.

    `trail` holds the same run's earlier checkpoints, as (target, general) changes.
    """

    name: str
    target: float
    general: float
    target_low: float | None = None
    target_high: float | None = None
    general_low: float | None = None
    general_high: float | None = None
    trail: tuple[tuple[float, float], ...] = ()


def point_of(certificate: Mapping[str, Any], name: str, trail: Sequence[tuple[float, float]] = ()) -> Point | None:
    """The point of a certificate; None when it lacks a target or a pooled score."""
    target = certificate.get("target") or {}
    pooled = (certificate.get("retention") or {}).get("pooled") or {}
    if target.get("delta") is None or pooled.get("delta") is None:
        return None
    delta, low, high = gained(target)
    assert delta is not None, "the certificate has it"
    return Point(
        name, delta, pooled["delta"], low, high, pooled.get("low"), pooled.get("high"), tuple(trail),
    )  # fmt: skip


def plane(
    points_: Sequence[Point],
    *,
    margin: float | None,
    label: str = "change of general ability, pooled",
    gain: str = "change of the target score, points",
) -> Markup:
    """The picture: base at the origin, the corner to aim for shaded, one mark per model with its intervals."""
    xs = [0.0] + [
        x for p in points_ for x in (p.target, p.target_low, p.target_high, *(t[0] for t in p.trail)) if x is not None
    ]
    ys = [0.0] + [
        y
        for p in points_
        for y in (p.general, p.general_low, p.general_high, *(t[1] for t in p.trail))
        if y is not None
    ]
    ys += [-1.6 * margin] if margin else []
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(*svg.around(ys, pad=0.14), BOTTOM, TOP)
    parts: list[object] = []
    if margin is not None:
        floor = up(-margin)
        parts.append(
            element("rect", x=across(0), y=TOP, width=RIGHT - across(0), height=floor - TOP, class_="good-zone")
        )
        parts.append(svg.line(LEFT, floor, RIGHT, floor, "margin"))
        parts.append(svg.text(LEFT + 6, floor + 15, say("margin: {margin} points", margin=points(-margin)), "tick"))
        parts.append(svg.text(RIGHT - 8, TOP + 18, say("gained, and kept"), "tick strong", "end"))
    parts += [svg.line(across(0), TOP, across(0), BOTTOM, "zero"), svg.line(LEFT, up(0), RIGHT, up(0), "zero")]
    for index, point in enumerate(points_):
        parts += _mark(point, index, across, up)
    parts += [
        svg.mark(across(0), up(0), "circle", "mark base", 6),
        svg.text(across(0) + 10, up(0) - 9, say("base"), "row"),
    ]
    parts += svg.bottom_axis(_scaled(across), BOTTOM, say(gain))
    parts += svg.left_axis(_scaled(up), LEFT, say("{label}, points", label=say(label)))
    title = say("Target gain against change of general ability, one mark per model")
    return Markup(element("div", svg.picture(WIDTH, HEIGHT, title, parts), class_="figure") + _table(points_))


def _ends(low: float | None, high: float | None) -> str:
    return say("{low} to {high}", low=points(low), high=points(high))


def _scaled(axis: svg.Axis) -> svg.Axis:
    return svg.Axis(100 * axis.low, 100 * axis.high, axis.start, axis.end)


def _mark(point: Point, index: int, across: svg.Axis, up: svg.Axis) -> list[object]:
    colour = f"series-{index % 4}"
    x, y = across(point.target), up(point.general)
    parts: list[object] = []
    if point.trail:
        track = [(across(0), up(0)), *((across(a), up(b)) for a, b in point.trail), (x, y)]
        parts.append(svg.path(track, f"trail {colour}"))
        parts += [svg.mark(across(a), up(b), "circle", f"dot {colour}", 2.5) for a, b in point.trail]
    if point.target_low is not None and point.target_high is not None:
        parts.append(svg.line(across(point.target_low), y, across(point.target_high), y, f"whisker {colour}"))
    if point.general_low is not None and point.general_high is not None:
        parts.append(svg.line(x, up(point.general_low), x, up(point.general_high), f"whisker {colour}"))
    parts.append(svg.mark(x, y, SHAPES[index % 4], f"mark {colour}", 7))
    right = x > (LEFT + RIGHT) * 0.6
    parts.append(svg.text(x - 13 if right else x + 13, y - 12, point.name, "row strong", "end" if right else "start"))
    return parts


def _table(points_: Sequence[Point]) -> Markup:
    rows: list[list[object]] = [
        [p.name, points(p.target), _ends(p.target_low, p.target_high), points(p.general),
         _ends(p.general_low, p.general_high)]
        for p in points_
    ]  # fmt: skip
    titles = ("model", "target", "90% interval", "general", "90% interval")
    head: list[object] = [say(title) for title in titles]
    return folded(say("The numbers as a table"), table(head, rows, numeric=frozenset({1, 2, 3, 4})))
