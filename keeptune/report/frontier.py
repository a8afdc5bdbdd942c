"""Frontiers: what each run lost on its way to the target score, one line per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from keeptune.report import svg
from keeptune.report.curves import svg_shape
from keeptune.report.html import Markup, element

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 340, 70, 690, 44, 276


@dataclass(frozen=True)
class Path:
    """A run's checkpoints in order of training, as (target score, what was lost), both fractions.

    `low` and `high` are the interval of the last point's second value.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    low: float | None = None
    high: float | None = None


def frontier(
    paths: Sequence[Path],
    label: str,
    *,
    limit: float | None = None,
    matched: float | None = None,
    reached: str = "target score, % (dev)",
) -> Markup:
    """The picture.

    Args:
        paths: one per run; each begins at the base.
        label: what the vertical axis shows.
        limit: a margin to draw.
        matched: the target score at which runs are compared.
        reached: what the horizontal axis shows.
    """
    drawn = [path for path in paths if path.points]
    xs = [x for path in drawn for x, _ in path.points]
    ys = [y for path in drawn for _, y in path.points] + [0.0]
    ys += [end for path in drawn for end in (path.low, path.high) if end is not None]
    ys += [limit] if limit is not None else []
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(*svg.around(ys), BOTTOM, TOP)
    parts: list[object] = []
    if limit is not None:
        parts += [
            svg.line(LEFT, up(limit), RIGHT, up(limit), "margin"),
            svg.text(RIGHT, up(limit) - 5, "margin", "tick", "end"),
        ]
    if matched is not None:
        parts += [svg.line(across(matched), TOP, across(matched), BOTTOM, "zero")]
        parts.append(svg.text(across(matched), TOP - 6, "compared here", "tick", "middle"))
    ends = _spread([up(path.points[-1][1]) for path in drawn])
    for index, (path, end) in enumerate(zip(drawn, ends, strict=True)):
        parts += _run(path, index, across, up, end)
    scaled = (svg.Axis(100 * axis.low, 100 * axis.high, axis.start, axis.end) for axis in (across, up))
    parts += svg.bottom_axis(next(scaled), BOTTOM, reached, "{:g}")
    parts += svg.left_axis(next(scaled), LEFT, "", "{:g}")
    return element(
        "div", svg.picture(WIDTH, HEIGHT, f"{label} against target score, one line per run", parts), class_="figure"
    )


def _run(path: Path, index: int, across: svg.Axis, up: svg.Axis, label_y: float) -> list[object]:
    colour = f"series-{index % 4}"
    track = [(across(x), up(y)) for x, y in path.points]
    x, y = track[-1]
    parts: list[object] = [svg.path(track, f"trail {colour}")]
    parts += [svg.mark(px, py, "circle", f"dot {colour}", 2.5) for px, py in track[1:-1]]
    if path.low is not None and path.high is not None:
        parts.append(svg.line(x, up(path.low), x, up(path.high), f"whisker {colour}"))
    parts.append(svg.mark(x, y, svg_shape(index), f"mark {colour}", 6))
    parts.append(svg.mark(RIGHT + 12, label_y, svg_shape(index), f"mark {colour}", 5))
    parts.append(svg.text(RIGHT + 22, label_y + 4, path.name, "row strong"))
    return parts


def _spread(heights: list[float], gap: float = 19) -> list[float]:
    """Moves labels apart so that none covers another; order is kept."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for before, here in pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    return placed
