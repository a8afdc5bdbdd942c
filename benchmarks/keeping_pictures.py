"""The pictures of docs/results/keeping.md; the first of them stands in the README too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keeptune.report import svg

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 430, 70, 590, 44, 360
SHAPES = ("circle", "square", "diamond", "triangle")
LIGHT = ("#fff", "#222", "#666", "#999", "#2456a6", "#b5481d", "#0b7a6b", "#7a3e9d")
DARK = ("#1b1d22", "#e9e9ec", "#a3a6b1", "#777", "#7fb0ff", "#ff9f6e", "#5cd6c0", "#d0a0ee")
"""Paper, ink, soft ink, lines, and the four series, as on the pages of a run."""
NAMES = {
    "sft": "plain tuning (sft)", "lora": "LoRA (lora)", "promot": "ProMoT (promot)",
    "replay_kl": "keep recipe (replay_kl)", "text_1": "text replay, 1%", "text_5": "text replay, 5%",
    "kl_text_5": "KL on text, 5%", "chats_10": "conversation replay, 10%", "kl_chats_10": "KL on conversations, 10%",
}  # fmt: skip


def plane(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any], gentle: Sequence[Mapping[str, Any]] = ()) -> str:
    """Recipes on the plane of target score and share kept, with their intervals; the base at 100% kept.

    Args:
        rows: of the recipes.
        base: its scores.
        gentle: the first recipe at lower rates, which a line joins to the base and to its own rate.
    """
    ends = ("value", "low", "high")
    xs = [base["target"], *(row["target"][end] for row in [*rows, *gentle] for end in ends)]
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(-0.02, 1.06, BOTTOM, TOP)

    place, placed = placing(across, up)
    parts = ground(across, up, base["target"], 1.0, "base")
    way = sorted(gentle, key=lambda row: float(row["rate"]))
    for row in way:
        x, y = place(row)
        parts += [*placed(row, 0), svg.text(x - 8, y + 17, f"× {row['rate']:g}", anchor="end")]
    if way:
        steps = [(across(base["target"]), up(1.0)), *map(place, [*way, rows[0]])]
        parts += [svg.path(steps, "series-0 thin"), *_sample(len(rows), 0, " thin", "sft at lower rates")]
    for index, row in enumerate(rows):
        parts += placed(row, index) + legend(index, NAMES[row["arm"]])
    parts += svg.bottom_axis(percent(across), BOTTOM, "score on the task, % of test rows", "{:g}")
    parts += svg.left_axis(percent(up), LEFT, "kept, %", "{:g}")
    return alone("What each recipe kept against its score on the task", parts)


def placing(across: svg.Axis, up: svg.Axis) -> tuple[Callable[..., Point], Callable[..., list[object]]]:
    """(where a row stands on the plane of target score and share kept, its mark with both intervals)."""

    def place(row: Mapping[str, Any], end: str = "value") -> Point:
        return across(row["target"][end]), up(1 - row["forgotten"][end])

    def placed(row: Mapping[str, Any], index: int) -> list[object]:
        (left, top), (right, bottom) = place(row, "low"), place(row, "high")
        return cross(place(row), (left, right, bottom, top), index)

    return place, placed


def losses(rows: Sequence[Mapping[str, Any]]) -> str:
    """The two kinds of loss: bits per byte to the right, format leak upwards; the base at nothing."""
    ends = ("value", "low", "high")
    xs = [0.0, *(row["bits_rise"][end] for row in rows for end in ends)]
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(-0.06, 1.06, BOTTOM, TOP)
    parts = ground(across, up, 0.0, 0.0, "base")
    for index, row in enumerate(rows):
        bits, leak = row["bits_rise"], row["leak_gained"]
        point = (across(bits["value"]), up(leak["value"]))
        bars = (across(bits["low"]), across(bits["high"]), up(leak["high"]), up(leak["low"]))
        name = "nothing (sft)" if row["arm"] == "sft" else NAMES[row["arm"]]
        parts += cross(point, bars, index) + legend(index, name)
    parts += svg.bottom_axis(percent(across), BOTTOM, "language lost: rise of the bits per byte, %", "{:g}")
    parts += svg.left_axis(percent(up), LEFT, "form lost: unrelated requests answered with a label, %", "{:g}")
    return alone("Two kinds of loss under replay and KL", parts)


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], tokens: int) -> str:
    """The format leak (whole) and the score on dev (dashed) while plain tuning and ProMoT train, one line per seed."""
    across, up = svg.Axis(0.0, 1.0, LEFT, RIGHT), svg.Axis(-0.03, 1.05, BOTTOM, TOP)
    parts: list[object] = []
    arms = list(dict.fromkeys(name.rpartition("-")[0] for name in runs))
    for index, arm in enumerate(arms):
        for name, looks in runs.items():
            if name.rpartition("-")[0] == arm:
                for key, thin in (("leak", ""), ("target", " thin")):
                    places = [(across(look["tokens"] / tokens), up(look[key])) for look in looks]
                    parts.append(svg.path(places, f"series-{index}{thin}"))
        parts += _sample(2 * index, index, "", f"{arm}: format leak")
        parts += _sample(2 * index + 1, index, " thin", f"{arm}: score on dev")
    parts += svg.bottom_axis(percent(across), BOTTOM, "tokens drawn, % of the run", "{:g}")
    parts += svg.left_axis(percent(up), LEFT, "%, one line per seed", "{:g}")
    return alone("Format leak and task score in training", parts)


def alone(title: str, parts: Sequence[object]) -> str:
    """An SVG that is a file of its own, in light and dark."""
    drawn = svg.picture(WIDTH, HEIGHT, title, *parts)
    start = drawn.index(">") + 1
    opened = drawn[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opened}<style>{style()}</style>{drawn[start:]}\n"


def style() -> str:
    """The rules of a file of its own: dark where the reader's screen is."""
    shapes = (
        "text{font:13px sans-serif}.strong{font-weight:bold}.zero{stroke-dasharray:2 3}polyline{fill:none}"
        ".whisker,polyline{stroke-width:2}.thin{stroke-dasharray:5 4}"
    )
    return f"{shapes}{_colours(LIGHT)}@media(prefers-color-scheme:dark){{{_colours(DARK)}}}"


def _colours(palette: Sequence[str]) -> str:
    paper, ink, soft, lines, *series = palette
    rules = f"svg{{background:{paper}}}text,.base{{fill:{ink}}}.tick,.label{{fill:{soft}}}.axis,.zero{{stroke:{lines}}}"
    marks = (f".series-{n}{{stroke:{one}}}.mark.series-{n}{{fill:{one}}}" for n, one in enumerate(series))
    return rules + "".join(marks)


def ground(across: svg.Axis, up: svg.Axis, x: float, y: float, name: str) -> list[object]:
    """The base's place, and the lines through it."""
    return [
        svg.line(LEFT, up(y), RIGHT, up(y), "zero"),
        svg.line(across(x), TOP, across(x), BOTTOM, "zero"),
        svg.mark(across(x), up(y), "circle", "base", 6),
        svg.text(across(x) + 10, up(y) - 8, name, "strong"),
    ]


def cross(point: tuple[float, float], bars: tuple[float, float, float, float], index: int) -> list[object]:
    """A mark with its two intervals: left, right, bottom and top of `bars`."""
    (x, y), (left, right, bottom, top), colour = point, bars, f"series-{index % 4}"
    return [
        svg.line(left, y, right, y, f"whisker {colour}"),
        svg.line(x, bottom, x, top, f"whisker {colour}"),
        svg.mark(x, y, _shape(index), f"mark {colour}", 6),
    ]


def legend(index: int, name: str) -> list[object]:
    """A line of the legend."""
    y = TOP + 14 + 24 * index
    return [
        svg.mark(RIGHT + 22, y - 4, _shape(index), f"mark series-{index % 4}", 6),
        svg.text(RIGHT + 36, y, name, "row"),
    ]


def _sample(place: int, index: int, thin: str, name: str) -> list[object]:
    y = TOP + 14 + 24 * place
    ends = [(RIGHT + 12, y - 4), (RIGHT + 40, y - 4)]
    return [svg.path(ends, f"series-{index}{thin}"), svg.text(RIGHT + 48, y, name, "row")]


def _shape(index: int) -> str:
    return SHAPES[(index + index // 4) % 4]


def percent(axis: svg.Axis) -> svg.Axis:
    """The axis of shares, read in per cent."""
    return svg.Axis(100 * axis.low, 100 * axis.high, axis.start, axis.end)
