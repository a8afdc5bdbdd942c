"""The tables and pictures of docs/probing.md, from the results of `benchmarks.probing`; the text around them stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.keeping_pictures import style
from keeptune.core.files import atomic_write
from keeptune.core.usage import hours_of
from keeptune.report.probe_curves import layer_curves, series_of
from keeptune.report.words import number, points, took
from keeptune.statistics.ratio import Interval, ratio_over_seeds

PAGE = Path(__file__).resolve().parent.parent / "docs" / "probing.md"
PICTURES = {"accuracy": "accuracy, %", "selectivity": "selectivity, points"}
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"
Result = Mapping[str, Any]
Answers = Sequence[Mapping[str, Any]]


def write_page(found: Sequence[tuple[Result, Answers]]) -> None:
    """Replaces what stands between the marks of the page, and draws the tags' curves of both models beside it."""
    made = [tables(result) + against(answers) for result, answers in found]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{chr(10).join(made)}{END}{after}", encoding="utf-8")
    tags = [result for result, _ in found if result["task"] == "upos" and len(result["rows"]) > 1]
    for what, label in PICTURES.items():
        atomic_write(PAGE.with_name(f"probing_{what}.svg"), picture(tags, what, label))


def picture(results: Sequence[Result], what: str, label: str) -> str:
    """One quantity by layer, one curve for each model and probe, as a file of its own in light and dark."""
    rows = [row for result in results for row in result["rows"]]
    series = series_of(rows, [result["model"] for result in results])
    drawn = str(layer_curves(series, what, label, f"Part-of-speech tags: {what} by layer"))
    body = drawn[drawn.index("<svg") : drawn.index("</svg>") + len("</svg>")]
    start = body.index(">") + 1
    opened = body[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opened}<style>{style()}</style>{body[start:]}\n"


def tables(result: Result) -> str:
    """One table for each probe."""
    texts, units, seeds = result["texts"], result["units"], len(result["rows"][0]["seeds"])
    parts = [
        f"**{result['model']}, `{result['task']}`, {result['treebank']}**: {units['test']:,} answers in "
        f"{texts['test']:,} test texts, learned from {units['train']:,} in {texts['train']:,}; "
        f"{seeds} seed{'s' * (seeds > 1)}; {100 * result['baseline']:.1f}% right without any state. "
        f"{took(hours_of(result['rows']))}\n"
    ]
    for title, rows in groupby(result["rows"], key=lambda row: row["title"]):
        parts += [
            f"| {title}: layer | accuracy, % | control, % | selectivity, points | codelength, kbit | compression |",
            "|---:|---:|---:|---:|---:|---:|",
            *map(_row, rows),
            "",
        ]
    return "\n".join(parts)


def _row(row: Mapping[str, Any]) -> str:
    own, chosen = row["accuracy"], row["selectivity"]
    accuracy = [points(own[end], sign=False) for end in ("value", "low", "high")]
    selectivity = [points(chosen[end]) for end in ("value", "low", "high")]
    cells = [
        str(row["layer"]),
        "{} ({}, {})".format(*accuracy),
        points(row["control"]["value"], sign=False),
        "{} ({}, {})".format(*selectivity),
        number(None if row["bits"] is None else row["bits"] / 1000, 1),
        number(row["compression"], 2),
    ]
    return f"| {' | '.join(cells)} |"


def against(answers: Answers) -> str:
    """The simpler probe minus the MLP, text by text and seed by seed: a row for each layer; nothing of one probe."""
    titles = sorted({row["title"] for row in answers}, key=lambda title: title.startswith("MLP"))
    if len(titles) != 2:
        return ""
    simple, mlp = titles
    rows = []
    for layer in sorted({row["layer"] for row in answers}):
        own, other = (_of(answers, title, layer) for title in titles)
        change = [_difference(own, other, ("task",)), _difference(own, other, ("task", "control"))]
        rows.append(f"| {layer} | {' | '.join(_points(one) for one in change)} |")
    head = f"| {simple} minus {mlp}: layer | accuracy, points | selectivity, points |"
    return "\n".join(["", head, "|---:|---:|---:|", *rows, ""])


def _of(answers: Answers, title: str, layer: int) -> list[Mapping[str, Any]]:
    """One probe's measurements of a layer, by seed."""
    own = [row for row in answers if row["title"] == title and row["layer"] == layer]
    return sorted(own, key=lambda row: row["seed"])


def _difference(own: Answers, other: Answers, kinds: tuple[str, ...]) -> Interval:
    """Right answers to the task, less those to the control where it is named, of one probe minus the other."""
    sides = []
    for rows in (own, other):
        right = {kind: np.array([row[kind]["right"] for row in rows]) for kind in kinds}
        sides.append(right["task"] - right.get("control", 0))
    return ratio_over_seeds(sides[0] - sides[1], own[0]["task"]["asked"])


def _points(change: Interval) -> str:
    return f"{points(change.value)} ({points(change.low)}, {points(change.high)})"
