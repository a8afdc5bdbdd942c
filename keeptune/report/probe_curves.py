"""Pictures of a probing run: a quantity by layer, and selectivity against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from keeptune.report import svg
from keeptune.report.html import Markup, element

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 330, 64, 780, 58, 262
SHAPES = ("circle", "square", "diamond", "triangle")
Row = Mapping[str, Any]


def series_of(rows: Sequence[Row], models: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by the name of their curve, layers ascending: the probe, and the model where there are two."""
    named = [(row["title"] if len(models) == 1 else f"{row['title']}, {row['model']}", row) for row in rows]
    named.sort(key=lambda pair: (pair[0], pair[1]["layer"]))
    return {name: [row for _, row in group] for name, group in groupby(named, key=lambda pair: pair[0])}


def layer_curves(series: Mapping[str, Sequence[Row]], what: str, label: str, title: str) -> Markup:
    """One curve a probe, with the interval of each point, in percent."""
    layers = [row["layer"] for rows in series.values() for row in rows]
    ends = [100 * row[what][end] for rows in series.values() for row in rows for end in ("low", "high")]
    across = svg.Axis(min(layers) - 0.25, max(layers) + 0.25, LEFT, RIGHT)
    up = svg.Axis(*svg.around(ends), BOTTOM, TOP)
    parts: list[object] = [*_layer_axis(across, sorted(set(layers))), *svg.left_axis(up, LEFT, label, "{:g}")]
    for index, (name, rows) in enumerate(series.items()):
        colour = f"series-{index % 4}"
        points = [(across(row["layer"]), up(100 * row[what]["value"])) for row in rows]
        parts.append(svg.path(points, f"trail {colour}"))
        for (x, y), row in zip(points, rows, strict=True):
            parts.append(svg.line(x, up(100 * row[what]["low"]), x, up(100 * row[what]["high"]), f"whisker {colour}"))
            parts.append(svg.mark(x, y, SHAPES[index % 4], f"mark {colour}", 4.5))
        parts += _legend(index, name)
    return element("div", svg.picture(WIDTH, HEIGHT, title, parts), class_="figure")


def selectivity_plane(series: Mapping[str, Sequence[Row]]) -> Markup:
    """One mark a probe and layer: accuracy to the right, selectivity upwards, the layer beside it."""
    everything = [row for rows in series.values() for row in rows]
    across = svg.Axis(*svg.around([100 * row["accuracy"]["value"] for row in everything]), LEFT, RIGHT)
    up = svg.Axis(*svg.around([100 * row["selectivity"]["value"] for row in everything]), BOTTOM, TOP)
    parts: list[object] = [
        *svg.bottom_axis(across, BOTTOM, "accuracy on the task, %", "{:g}"),
        *svg.left_axis(up, LEFT, "selectivity, points", "{:g}"),
    ]
    for index, (name, rows) in enumerate(series.items()):
        colour = f"series-{index % 4}"
        for row in rows:
            x, y = across(100 * row["accuracy"]["value"]), up(100 * row["selectivity"]["value"])
            parts += [
                svg.mark(x, y, SHAPES[index % 4], f"mark {colour}", 5),
                svg.text(x + 8, y - 6, row["layer"], "tick"),
            ]
        parts += _legend(index, name)
    title = "Selectivity against accuracy, one mark for each probe and layer"
    return element("div", svg.picture(WIDTH, HEIGHT, title, parts), class_="figure")


def _layer_axis(axis: svg.Axis, layers: Sequence[int]) -> list[Markup]:
    parts = [svg.line(axis.start, BOTTOM, axis.end, BOTTOM, "axis")]
    for layer in layers:
        x = axis(layer)
        parts += [svg.line(x, BOTTOM, x, BOTTOM + 4, "axis"), svg.text(x, BOTTOM + 17, layer, "tick", "middle")]
    middle = (axis.start + axis.end) / 2
    return [*parts, svg.text(middle, BOTTOM + 36, "layer (0: the embeddings)", "label", "middle")]


def _legend(index: int, name: str) -> list[Markup]:
    x, y = LEFT + 16 + 240 * (index % 3), 14 + 18 * (index // 3)
    return [svg.mark(x, y, SHAPES[index % 4], f"mark series-{index % 4}", 5), svg.text(x + 12, y + 4, name, "row")]
