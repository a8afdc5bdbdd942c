"""The page of a scaling study: scores by rows, the fitted curves, and what twice the data would add."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.counting import counted
from keeptune.report import svg
from keeptune.report.html import Markup, element, table
from keeptune.report.lineup_page import share
from keeptune.report.page import document
from keeptune.report.words import grid, points

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 360, 70, 780, 40, 290
NAMES = {"target": "target score", "kept": "kept"}


def scaling_page(result: Mapping[str, Any]) -> str:
    """The whole page as text, from `study.json`."""
    twice = result["curves"]["target"]["twice"]
    body = [
        element("p", grid(len(result["cells"]), "size", result["seeds"], result["hours"]), class_="kicker"),
        element("h1", f"Twice the data would add {gain(twice)} to the target score"),
        element(
            "p", "Each size is inside every larger one; epochs stay, so fewer rows are fewer steps.", class_="lead"
        ),
        [_section(name, curve, result) for name, curve in result["curves"].items()],
        element("h2", "Every size"),
        _table(result["cells"]),
        element("p", _small_print(result), class_="note"),
    ]
    return document("keeptune study: scaling", body)


def gain(reading: Mapping[str, Any]) -> str:
    """A gain in points with its interval."""
    return f"{points(reading['value'])} points ({points(reading['low'])} to {points(reading['high'])})"


def _section(name: str, curve: Mapping[str, Any], result: Mapping[str, Any]) -> list[object]:
    errors = ", ".join(
        f"{form} {100 * error:.1f} points" for form, error in curve["held_out"].items() if error is not None
    )
    chosen = f"By the {curve['form']} form, twice the data would add {gain(curve['twice'])}."
    why = f" Error on left-out sizes: {errors}." if errors else " Fewer than four sizes tell no forms apart."
    return [element("h2", NAMES[name].capitalize()), _picture(name, curve, result), element("p", chosen + why)]


def _picture(name: str, curve: Mapping[str, Any], result: Mapping[str, Any]) -> Markup:
    cells = [(cell["rows"], _reading(name, cell)) for cell in result["cells"]]
    sizes = [rows for rows, _ in cells]
    line = [min(sizes) * (2 * max(sizes) / min(sizes)) ** (i / 60) for i in range(61)]
    drawn = [(math.log2(n), value(curve, n)) for n in line]
    ys = [y for _, y in drawn] + [end for _, reading in cells for end in reading if end is not None]
    across = svg.Axis(*svg.around([x for x, _ in drawn]), LEFT, RIGHT)
    up = svg.Axis(*svg.around(ys), BOTTOM, TOP)
    parts: list[object] = [svg.path([(across(x), up(y)) for x, y in drawn], "trail series-0")]
    for rows, (middle, low, high) in cells:
        x = across(math.log2(rows))
        if low is not None and high is not None:
            parts.append(svg.line(x, up(low), x, up(high), "whisker series-0"))
        parts.append(svg.mark(x, up(middle or 0.0), "circle", "mark series-0", 6))
        parts.append(svg.text(x, BOTTOM + 16, f"{rows:,}", "tick", "middle"))
    parts += [svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "zero"), svg.text(RIGHT, BOTTOM + 36, "rows", "row", "end")]
    parts += svg.left_axis(svg.Axis(100 * up.low, 100 * up.high, BOTTOM, TOP), LEFT, f"{NAMES[name]}, %", "{:g}")
    drawing = svg.picture(WIDTH, HEIGHT, f"{NAMES[name].capitalize()} by rows, with the fitted curve", parts)
    return element("div", drawing, class_="figure")


def value(curve: Mapping[str, Any], rows: float) -> float:
    """The fitted score at a number of rows."""
    if curve["form"] == "logarithm":
        a, b = curve["parameters"]
        return float(a + b * math.log2(rows))
    c, a, k = curve["parameters"]
    return float(c - a * rows**-k)


def _reading(name: str, cell: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    if name == "target":
        return cell["target"]["value"], cell["target"]["low"], cell["target"]["high"]
    lost = cell["forgotten"]
    turned = [None if lost[key] is None else 1 - lost[key] for key in ("value", "high", "low")]
    return turned[0], turned[1], turned[2]


def _table(cells: Sequence[Mapping[str, Any]]) -> Markup:
    head: list[object] = ["rows", "target", "90% interval", "kept", "abilities", "format leak", "bits per byte"]
    rows: list[list[object]] = [
        [
            f"{cell['rows']:,}", share(cell["target"]["value"]),
            f"{share(cell['target']['low'])} to {share(cell['target']['high'])}", share(1 - cell["forgotten"]["value"]),
            share(cell["general"]), share(cell["leak"]),
            "–" if cell["bits_rise"] is None else f"{points(cell['bits_rise'])}%",
        ]
        for cell in cells
    ]  # fmt: skip
    return table(head, rows, numeric=frozenset(range(7)))


def _small_print(result: Mapping[str, Any]) -> str:
    level = f"{100 * result['confidence']:.0f}%"
    return (
        f"Shrunk: {', '.join(result['sources'])}. Target: {result['metric']} on {counted(result['n'], 'test row')}. "
        f"Intervals: {level}, percentile bootstrap over items and, where there are several, seeds."
    )
