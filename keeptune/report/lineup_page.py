"""The page of a comparison study: target against retention, and what each recipe kept at equal score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.counting import counted
from keeptune.report import svg
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.page import document
from keeptune.report.words import grid, number, points

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 460, 70, 640, 40, 390
SHAPES = ("circle", "square", "diamond", "triangle")
LEAD = (
    "Each mark is a recipe at one learning rate, trained on the same number of tokens; a line joins its rates from low "
    "to high. Kept is 100% minus the greater of the ability lost and of the unrelated requests that are answered in "
    "the training format. Up and to the right is better; the base stands at 100% kept."
)


def lineup_page(result: Mapping[str, Any]) -> str:
    """The whole page as text, from `study.json`."""
    level = share(result["level"])
    body = [
        element("p", grid(len(result["cells"]), "cell", result["seeds"], result["hours"]), class_="kicker"),
        element("h1", headline(result["methods"])),
        element("p", LEAD, class_="lead"),
        _plane(result),
        element("h2", f"Kept at a target score of {level}, which every recipe reaches at some rate"),
        _methods(result["methods"]),
        element("h2", "Every cell"),
        _cells(result["cells"], result["base"]),
        _kl(result.get("kl_predicts")),
        [element("p", f"{one['recipe']} at {one['rate']:g} times its rate, seed {one['seed']}: {one['failed']}")
         for one in result["failed"]],
        element("p", _small_print(result), class_="note"),
    ]  # fmt: skip
    return document("keeptune study: compare", body)


def headline(methods: Sequence[Mapping[str, Any]]) -> str:
    """Which recipe covers the largest area; those whose intervals reach that of the first are named with it."""
    ranked = sorted(methods, key=lambda row: -(row["hypervolume"]["value"] or 0))
    first = ranked[0]["hypervolume"]
    if len(ranked) == 1 or first["low"] is None:
        return f"{ranked[0]['recipe']} on the plane of target and retention"
    near = [row["recipe"] for row in ranked[1:] if (row["hypervolume"]["high"] or 0) >= first["low"]]
    if near:
        return (
            f"{ranked[0]['recipe']} is first on the plane of target and retention, not clearly before {', '.join(near)}"
        )
    return f"{ranked[0]['recipe']} covers most of the plane of target and retention"


def share(value: float | None) -> str:
    """A fraction in per cent."""
    return "–" if value is None else f"{points(value, sign=False)}%"


def _ends(reading: Mapping[str, Any]) -> str:
    return share(reading["value"]) if reading["low"] is None else (
        f"{share(reading['value'])} ({share(reading['low'])} to {share(reading['high'])})"
    )  # fmt: skip


def _plane(result: Mapping[str, Any]) -> Markup:
    cells, base = result["cells"], result["base"]["target"]
    xs = [base, *(end for cell in cells for end in _read(cell["target"]))]
    ys = [1.0, *(1 - end for cell in cells for end in _read(cell["forgotten"]))]
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(*svg.around(ys), BOTTOM, TOP)
    parts: list[object] = [
        svg.line(LEFT, up(1.0), RIGHT, up(1.0), "zero"),
        svg.line(across(result["level"]), TOP, across(result["level"]), BOTTOM, "zero"),
        svg.mark(across(base), up(1.0), "circle", "mark base", 6),
        svg.text(across(base) + 10, up(1.0) - 8, "base", "row"),
    ]
    for index, method in enumerate(result["methods"]):
        own = [cell for cell in cells if cell["recipe"] == method["recipe"]]
        parts += _path(own, index, across, up)
        y = TOP + 14 + 20 * index
        parts.append(svg.mark(RIGHT + 24, y - 4, SHAPES[index // 4 % 4], f"mark series-{index % 4}", 6))
        parts.append(svg.text(RIGHT + 38, y, method["recipe"], "row"))
    parts += svg.bottom_axis(_scaled(across), BOTTOM, "target score, %", "{:g}")
    parts += svg.left_axis(_scaled(up), LEFT, "kept, %", "{:g}")
    height = max(HEIGHT, TOP + 40 + 20 * len(result["methods"]))
    title = "What each recipe kept against its target score"
    return element("div", svg.picture(WIDTH, height, title, parts), class_="figure")


def _path(cells: Sequence[Mapping[str, Any]], index: int, across: svg.Axis, up: svg.Axis) -> list[object]:
    colour, parts = f"series-{index % 4}", list[object]()
    places = [(across(cell["target"]["value"]), up(1 - cell["forgotten"]["value"])) for cell in cells]
    if len(places) > 1:
        parts.append(svg.path(places, f"trail {colour}"))
    for cell, (x, y) in zip(cells, places, strict=True):
        if cell["target"]["low"] is not None:
            parts.append(
                svg.line(across(cell["target"]["low"]), y, across(cell["target"]["high"]), y, f"whisker {colour}")
            )
        if cell["forgotten"]["low"] is not None:
            low, high = up(1 - cell["forgotten"]["low"]), up(1 - cell["forgotten"]["high"])
            parts.append(svg.line(x, low, x, high, f"whisker {colour}"))
        parts.append(svg.mark(x, y, SHAPES[index // 4 % 4], f"mark {colour}", 6))
    return parts


def _read(reading: Mapping[str, Any]) -> list[float]:
    return [reading[key] for key in ("value", "low", "high") if reading[key] is not None]


def _scaled(axis: svg.Axis) -> svg.Axis:
    return svg.Axis(100 * axis.low, 100 * axis.high, axis.start, axis.end)


def _methods(methods: Sequence[Mapping[str, Any]]) -> Markup:
    rows = sorted(methods, key=lambda row: -(row["hypervolume"]["value"] or 0))
    head: list[object] = ["recipe", "kept at that score", "area covered", "rates"]
    cells: list[list[object]] = [
        [element("b", row["recipe"]), _ends(row["matched"]), _ends(row["hypervolume"]), row["cells"]] for row in rows
    ]
    return table(head, cells, numeric=frozenset({1, 2, 3}))


def _cells(cells: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> Markup:
    head: list[object] = [
        "recipe", "times its rate", "target", "forgotten", "abilities", "format leak", "bits per byte", "KL, nats",
        "minutes",
    ]  # fmt: skip
    first: list[object] = [
        "base",
        "",
        share(base["target"]),
        "",
        share(base["general"]),
        share(base["leak"]),
        "",
        "",
        "",
    ]
    rows: list[list[object]] = [
        [
            element("b", cell["recipe"]), f"{cell['rate']:g}", _ends(cell["target"]), _ends(cell["forgotten"]),
            share(cell["general"]), share(cell["leak"]),
            "–" if cell["bits_rise"] is None else f"{points(cell['bits_rise'])}%",
            number(cell["kl_to_base"]), f"{cell['seconds'] / 60:.1f}",
        ]
        for cell in cells
    ]  # fmt: skip
    return table(head, [first, *rows], numeric=frozenset(range(1, 9)))


def _kl(found: Mapping[str, Any] | None) -> Markup | None:
    if not found or found["value"] is None:
        return None
    ends = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    text = (
        f"KL to the base on the task's own answers ranks the {found['n']} cells by what they forgot with a correlation "
        f"of {found['value']:.2f}{ends}."
    )
    return Markup(element("h2", "Does KL to the base tell what is forgotten?") + element("p", text, class_="lead"))


def _small_print(result: Mapping[str, Any]) -> Markup:
    base = result["base"]
    text = (
        f"{result['tokens']:,} tokens a run. Target: {base['metric']} on {counted(base['n'], 'test row')}. Intervals: "
        f"{100 * result['confidence']:.0f}%, percentile bootstrap over clusters of items and, where there are several, "
        "seeds; with one seed they say nothing about another seed."
    )
    return folded("How it was made", element("p", text))
