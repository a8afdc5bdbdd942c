"""The page of a mixture study: each domain over the design, what a step of it changes, and the proposal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.counting import counted
from keeptune.report import svg
from keeptune.report.html import Markup, element, table
from keeptune.report.page import document
from keeptune.report.words import NAMES, grid, points

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 340, 80, 640, 40, 270
SHAPES = ("circle", "square", "diamond", "triangle")
ALONG = {"share": "share of the varied rows", "k": "k", "rows": "rows in all"}
TITLES = {
    "vary": "One side of the mixture varied, the other fixed",
    "dmt_k": "k of DMT varied",
    "total_ratio": "Total amount against ratio",
    "regmix": "A mixture proposed by a regression over short runs",
}
Plain = Mapping[str, Any]


def mixture_page(result: Plain) -> str:
    """The whole page as text, from `study.json`."""
    title = TITLES.get(result["design"], f"Mixtures: {result['design']}")
    body = [
        element("p", grid(len(result["cells"]), "mixture", result["seeds"], result["hours"]), class_="kicker"),
        element("h1", title),
        element("p", "Every domain is scored on rows that no run trained on.", class_="lead"),
        [[element("h2", _name(one)), picture] for one in result["domains"] if (picture := _picture(one, result))],
        _section("What a step changes", ["domain", "by", "change"], [_trend(one, result) for one in result["trends"]]),
        _proposal(result),
        element("h2", "Every mixture"),
        _cells(result),
        _section("Against the other recipes", ["domain", "mixture", "than", "better by"],
                 [_contrast(one, result) for one in result["contrasts"]]),
        [element("p", f"{one['cell']}, seed {one['seed']}: {one['what']}") for one in result["failed"]],
        element("p", _small_print(result), class_="note"),
    ]  # fmt: skip
    return document("keeptune study: mixture", body)


def mixture_text(result: Plain) -> str:
    """The study in a terminal."""
    names = [one["name"] for one in result["domains"]]
    lines = [f"{'mixture':<28}" + "".join(f"{name:>14}" for name in names) + f"{'abilities':>12}"]
    base = "".join(f"{_score(one, one['base']):>14}" for one in result["domains"])
    lines.append(f"{'base':<28}{base}")
    for cell in result["cells"]:
        own = "".join(f"{_score(one, cell['scores'][one['name']]['value']):>14}" for one in result["domains"])
        lines.append(f"{_at(cell):<28}{own}{_percent(cell['general']):>12}")
    lines += [f"{one['domain']}, {one['unit']}: {_change(_domain(result, one), one)}" for one in result["trends"]]
    proposal = result.get("proposal")
    if proposal:
        shares = ", ".join(f"{name} {_percent(one['value'])}" for name, one in proposal["shares"].items())
        measured = ", ".join(f"{name} {value:.4f}" for name, value in proposal["measured"].items())
        lines += [
            f"proposed: {shares}; loss predicted {proposal['predicted']:.4f}; measured: {measured}",
            unpredicted(result),
        ]
    lines += [f"{one['cell']}, seed {one['seed']}: diverged" for one in result["failed"]]
    lines.append(f"{counted(result['seeds'], 'seed')}, 90% intervals, {result['hours']:.2f} hours")
    return "\n".join(lines)


def _picture(domain: Plain, result: Plain) -> Markup | None:
    """The domain's score along the first coordinate of the design, a series for each value of the second."""
    own = [cell for cell in result["cells"] if not cell["beside"]]
    along = next((name for name in ALONG if own and name in own[0]["at"]), None)
    if along is None:
        return None
    second = next((name for name in own[0]["at"] if name != along), None)
    series = sorted({cell["at"][second] for cell in own}) if second else [0.0]
    beside = [cell for cell in result["cells"] if cell["beside"]]
    ends = [end for cell in [*own, *beside] for end in _ends(cell["scores"][domain["name"]])] + [domain["base"]]
    xs = sorted({cell["at"][along] for cell in own})
    across = svg.Axis(*svg.around([math.log2(x) for x in xs]), LEFT, RIGHT)
    up = svg.Axis(*svg.around(ends), BOTTOM, TOP)
    parts: list[object] = [svg.text(across(math.log2(x)), BOTTOM + 16, _amount(x), "tick", "middle") for x in xs]
    for index, value in enumerate(series):
        line = [cell for cell in own if second is None or cell["at"][second] == value]
        parts += _line(line, domain["name"], along, index, across, up)
        if second:
            parts.append(svg.text(RIGHT + 12, TOP + 14 + 20 * index, f"{second} {value:g}", f"row series-{index % 4}"))
    levels = [("base", domain["base"])] + [(c["label"], c["scores"][domain["name"]]["value"]) for c in beside]
    for name, level in levels:
        parts += [svg.line(LEFT, up(level), RIGHT, up(level), "zero"), svg.text(RIGHT + 12, up(level) + 4, name, "row")]
    scale = 1.0 if domain["metric"] == "bits_per_byte" else 100.0
    parts += svg.left_axis(svg.Axis(scale * up.low, scale * up.high, BOTTOM, TOP), LEFT, _unit(domain), "{:g}")
    parts += [svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"), svg.text(RIGHT, BOTTOM + 36, ALONG[along], "row", "end")]
    title = f"{domain['name']}: {_unit(domain)} by {ALONG[along]}"
    return element("div", svg.picture(WIDTH, HEIGHT, title, parts), class_="figure")


def _line(cells: Sequence[Plain], name: str, along: str, index: int, across: svg.Axis, up: svg.Axis) -> list[object]:
    colour, places = f"series-{index % 4}", []
    parts: list[object] = []
    for cell in sorted(cells, key=lambda one: one["at"][along]):
        x, reading = across(math.log2(cell["at"][along])), cell["scores"][name]
        places.append((x, up(reading["value"])))
        if reading["low"] is not None:
            parts.append(svg.line(x, up(reading["low"]), x, up(reading["high"]), f"whisker {colour}"))
        parts.append(svg.mark(*places[-1], SHAPES[index % 4], f"mark {colour}", 6))
    return [*([svg.path(places, f"trail {colour}")] if len(places) > 1 else []), *parts]


def _section(title: str, head: list[object], rows: list[list[object]]) -> list[object]:
    return [element("h2", title), table(head, rows)] if rows else []


def _proposal(result: Plain) -> list[object]:
    found = result.get("proposal")
    if not found:
        return []
    shares: list[list[object]] = [
        [name, _percent(one["value"]), f"{_percent(one['low'])} to {_percent(one['high'])}"]
        for name, one in found["shares"].items()
    ]
    fits: list[list[object]] = [
        [one["domain"], one["form"], _number(one["held_out"]), _number(one["held_out_of_the_mean"]),
         _number(one["rank_correlation"])]
        for one in result["surfaces"]
    ]  # fmt: skip
    losses: list[list[object]] = [["proposed, predicted", _number(found["predicted"])]]
    losses += [[name, _number(value)] for name, value in found["measured"].items()]
    return [
        element("h2", "The proposed mixture"),
        table(["source", "share of the tokens", "90% of refits"], shares, numeric=frozenset({1, 2})),
        element("h2", "Its loss"),
        element("p", "The weighted sum over domains of bits per byte over the base's, or of 1 minus the score."),
        table(["mixture", "loss"], losses, numeric=frozenset({1})),
        element("h2", "How well the regression predicts a mixture that it has not seen"),
        table(["domain", "form", "error", "error of the mean", "rank correlation"], fits, numeric=frozenset({2, 3, 4})),
        element("p", unpredicted(result), class_="lead"),
    ]


def unpredicted(result: Plain) -> str:
    """What the proposal is worth: where the regression predicts no better than the mean, it says nothing."""
    blind = [one["domain"] for one in result["surfaces"] if not one["held_out"] < one["held_out_of_the_mean"]]
    if not blind:
        return "In every domain the regression predicts a mixture that it has not seen better than their mean does."
    rest = "the proposal says nothing" if len(blind) == len(result["surfaces"]) else "there the proposal says nothing"
    return f"In {', '.join(blind)} the regression predicts no better than the mean: {rest}."


def _cells(result: Plain) -> Markup:
    domains = result["domains"]
    head: list[object] = ["mixture", *(_name(one) for one in domains), "abilities", "format leak", "bits per byte"]
    first: list[object] = ["base", *(_score(one, one["base"]) for one in domains), "", "", ""]
    rows: list[list[object]] = [
        [
            _at(cell), *(_reading(one, cell["scores"][one["name"]]) for one in domains), _percent(cell["general"]),
            _percent(cell["leak"]), "–" if cell["bits_rise"] is None else f"{points(cell['bits_rise'])}%",
        ]
        for cell in result["cells"]
    ]  # fmt: skip
    return table(head, [first, *rows], numeric=frozenset(range(1, len(head))))


def _trend(one: Plain, result: Plain) -> list[object]:
    return [one["domain"], one["unit"], _change(_domain(result, one), one)]


def _contrast(one: Plain, result: Plain) -> list[object]:
    return [one["domain"], one["cell"], one["than"], _change(_domain(result, one), one)]


def _domain(result: Plain, one: Plain) -> Plain:
    found: Plain = next(domain for domain in result["domains"] if domain["name"] == one["domain"])
    return found


def _change(domain: Plain, one: Plain) -> str:
    bits = domain["metric"] == "bits_per_byte"
    shown = [f"{one[key]:+.4f}" if bits else f"{100 * one[key]:+.1f}" for key in ("value", "low", "high")
             if one[key] is not None]  # fmt: skip
    unit = "bits per byte" if bits else "points"
    told = f"{shown[0]} {unit}" + (f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else "")
    return told.replace("-", "−")


def _at(cell: Plain) -> str:
    if cell["beside"] or not cell["at"]:
        return str(cell["label"])
    return ", ".join(f"{name} {_amount(value)}" for name, value in cell["at"].items())


def _amount(value: float) -> str:
    if value >= 1:
        return f"{value:,.0f}"
    turned = 1 / value
    return f"1/{turned:.0f}" if turned >= 4 and abs(turned - round(turned)) < 1e-6 else f"{value:.3g}"


def _name(domain: Plain) -> str:
    return f"{domain['name']}, {_unit(domain)}"


def _unit(domain: Plain) -> str:
    name = str(NAMES.get(domain["metric"], domain["metric"]))
    return name if domain["metric"] == "bits_per_byte" else f"{name}, %"


def _ends(reading: Plain) -> list[float]:
    return [reading[key] for key in ("value", "low", "high") if reading[key] is not None]


def _reading(domain: Plain, reading: Plain) -> str:
    ends = [_score(domain, end) for end in _ends(reading)]
    return f"{ends[0]} ({ends[1]} to {ends[2]})" if len(ends) == 3 else "".join(ends)


def _score(domain: Plain, value: float | None) -> str:
    return _number(value) if domain["metric"] == "bits_per_byte" else _percent(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _small_print(result: Plain) -> str:
    items = ", ".join(f"{one['name']} {one['n']:,}" for one in result["domains"])
    return (
        f"Test rows: {items}. Intervals: {100 * result['confidence']:.0f}%, bootstrap over items and, where there are "
        "several, seeds; with one seed they say nothing about another seed."
    )
