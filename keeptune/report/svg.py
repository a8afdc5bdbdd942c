"""Axes and marks for inline pictures; colours come from the page's style, so light and dark both work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keeptune.report.html import Markup, element


@dataclass(frozen=True)
class Axis:
    """A linear map from data to pixels; `start` may be larger than `end` (a vertical axis grows upwards)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, clipped to the axis."""
        value = min(max(value, self.low), self.high)
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values (1, 2 or 5 times a power of ten) inside the axis."""
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / count))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) + 0.0 for index in range(first, last + 1)]


def around(values: list[float], *, pad: float = 0.08, least: float = 1e-3) -> tuple[float, float]:
    """Low and high that hold all values with a margin; never empty."""
    low, high = min(values), max(values)
    room = max((high - low) * pad, least)
    return low - room, high + room


def picture(width: int, height: int, title: str, *parts: object) -> Markup:
    """An SVG that scales with the page; `title` is read by a screen reader."""
    return element(
        "svg", element("title", title), parts,
        viewBox=f"0 0 {width} {height}", role="img", aria_label=title, preserveAspectRatio="xMidYMid meet",
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, content: object, class_: str = "label", anchor: str = "start") -> Markup:
    """A label."""
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def path(points: list[tuple[float, float]], class_: str) -> Markup:
    """A polyline."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=joined, class_=class_)


def mark(x: float, y: float, shape: str, class_: str, size: float = 5) -> Markup:
    """A mark whose shape carries the meaning too: circle, square, diamond, triangle, cross."""
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "diamond": [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
        "triangle": [(0, -1.2), (1.2, 1), (-1.2, 1)],
    }
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    if shape == "cross":
        return Markup(
            line(x - size, y - size, x + size, y + size, class_) + line(x - size, y + size, x + size, y - size, class_)
        )
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners[shape])
    return element("polygon", points=points, class_=class_)


def bottom_axis(axis: Axis, y: float, label: str, form: str = "{:+g}") -> list[Markup]:
    """Ticks and a label under a picture."""
    parts = [line(axis.start, y, axis.end, y, "axis")]
    for tick in axis.ticks():
        parts += [
            line(axis(tick), y, axis(tick), y + 4, "axis"),
            text(axis(tick), y + 17, _number(tick, form), "tick", "middle"),
        ]
    return [*parts, text((axis.start + axis.end) / 2, y + 36, label, "label", "middle")]


def left_axis(axis: Axis, x: float, label: str, form: str = "{:+g}") -> list[Markup]:
    """Ticks and a label (written above the axis, so that it is read without turning the head)."""
    parts = [line(x, axis.start, x, axis.end, "axis")]
    for tick in axis.ticks():
        parts += [
            line(x - 4, axis(tick), x, axis(tick), "axis"),
            text(x - 8, axis(tick) + 4, _number(tick, form), "tick", "end"),
        ]
    return [*parts, text(x - 8, min(axis.start, axis.end) - 12, label, "label", "start")]


def _number(value: float, form: str) -> str:
    """A tick as the text beside it writes numbers: with a minus sign, not a hyphen; nothing has none."""
    return form.format(value).replace("-", "−") if value else "0"
