"""Forest plot: every part of the retention verdict on one scale, the margin line at -1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report import svg
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.language import retell, say
from keeptune.report.words import SIGN, number, points

WIDTH, ROW, LEFT, RIGHT, TOP = 820, 30, 215, 610, 34
REACH = 4.0
SHAPES = {"PASS": "circle", "FAIL": "cross", "UNDECIDED": "diamond"}


def forest(certificate: Mapping[str, Any]) -> Markup:
    """The plot and, folded, the same numbers as a table."""
    rows = retention_rows(certificate)
    if not rows:
        return element("p", say("No general ability was admitted as evidence."), class_="note")
    height = TOP + ROW * len(rows) + 62
    axis = svg.Axis(-REACH, REACH, LEFT, RIGHT)
    bottom = TOP + ROW * len(rows)
    parts: list[object] = [
        element("rect", x=LEFT, y=TOP - 8, width=axis(-1) - LEFT, height=bottom - TOP + 8, class_="bad-zone"),
        svg.line(axis(0), TOP - 8, axis(0), bottom, "zero"),
        svg.line(axis(-1), TOP - 14, axis(-1), bottom, "margin"),
        svg.text(axis(-1), TOP - 18, say("margin"), "tick strong", "middle"),
        svg.text(RIGHT + 14, TOP - 18, say("change (90% interval)"), "tick"),
    ]
    for index, row in enumerate(rows):
        parts += _row(row, TOP + ROW * index + ROW / 2, axis)
    parts += svg.bottom_axis(axis, bottom + 4, say("← worse     change in multiples of the margin     better →"))
    title = say("Change of each general ability with its interval, in multiples of its margin")
    drawn = element("div", svg.picture(WIDTH, height, title, parts), class_="figure")
    return Markup(drawn + _fell(certificate) + _table(rows))


def _fell(certificate: Mapping[str, Any]) -> Markup:
    """Tasks that lost more items than chance explains, whatever the margin says of them."""
    fell = (certificate.get("retention") or {}).get("fell") or []
    if not fell:
        return Markup("")
    names = ", ".join(f"{part['name']} (p = {part['p']:.2g})" for part in fell)
    told = say(
        "More items lost than chance explains (mid-p McNemar, Holm over the tasks): {names}. This names; the margin "
        "decides.",
        names=names,
    )
    return element("p", told, class_="note")


def retention_rows(certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of the verdict as one list: pooled, tasks, corpora, format leak."""
    retention = certificate.get("retention") or {}
    rows: list[dict[str, Any]] = []
    if retention.get("pooled"):
        rows.append({"name": say("all abilities, pooled"), "kind": "pooled", **retention["pooled"]})
    rows += [{"kind": "task", **task} for task in retention.get("tasks", [])]
    rows += [{"kind": "corpus", **corpus} for corpus in retention.get("corpora", [])]
    leak = (certificate.get("format") or {}).get("leak")
    if leak:
        rows.append({"name": say("format leak"), "kind": "leak", **leak})
    return [row for row in rows if row.get("delta") is not None]


def _oriented(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Change, low and high in multiples of the margin, better to the right."""
    worse_is_up = row["kind"] in ("corpus", "leak") and not row.get("higher_is_better", False)
    sign = -1.0 if worse_is_up else 1.0
    low = row["low"] if row["low"] is not None else row["delta"]
    high = row["high"] if row["high"] is not None else row["delta"]
    ends = sorted((sign * low / row["margin"], sign * high / row["margin"]))
    return sign * row["delta"] / row["margin"], ends[0], ends[1]


def _row(row: Mapping[str, Any], y: float, axis: svg.Axis) -> list[object]:
    delta, low, high = _oriented(row)
    state = str(row["verdict"]).lower()
    parts: list[object] = [
        svg.text(LEFT - 12, y + 4, row["name"], "row strong" if row["kind"] == "pooled" else "row", "end")
    ]
    parts.append(svg.line(axis(low), y, axis(high), y, f"whisker {state}"))
    parts += [svg.text(axis(-REACH) - 2, y + 4, "◂", f"beyond {state}")] if low < -REACH else []
    parts += [svg.text(axis(REACH) - 6, y + 4, "▸", f"beyond {state}")] if high > REACH else []
    parts.append(svg.mark(axis(delta), y, SHAPES.get(row["verdict"], "circle"), f"mark {state}", 5))
    parts.append(svg.text(RIGHT + 14, y + 4, f"{SIGN.get(row['verdict'], '')} {change_text(row)}", f"row {state}"))
    return parts


def change_text(row: Mapping[str, Any]) -> str:
    """The change in the row's own unit with its interval."""
    unit = "%" if row["kind"] == "corpus" else ""
    if row.get("low") is None:
        return points(row["delta"]) + unit
    return f"{points(row['delta'])}{unit} ({points(row['low'])}, {points(row['high'])})"


def _table(rows: list[dict[str, Any]]) -> Markup:
    titles = ("ability", "base", "adapted", "change", "margin", "verdict", "items", "right → wrong", "wrong → right")
    head: list[object] = [say(title) for title in titles]
    body: list[list[object]] = []
    for row in rows:
        shown = number if row["kind"] == "corpus" else (lambda value: points(value, sign=False))
        body.append([
            row["name"], shown(row["base"]), shown(row["adapted"]), change_text(row), points(row["margin"], sign=False),
            say(str(row["verdict"])), row.get("n"), row.get("flips_right_to_wrong"), row.get("flips_wrong_to_right"),
        ])  # fmt: skip
    note = say("Points of 100; a corpus is in bits per byte, and its change in percent of the base.")
    numbers = table(head, body, numeric=frozenset({1, 2, 3, 4, 6, 7, 8}))
    notes = [element("p", f"{row['name']}: {retell(row['note'])}", class_="note") for row in rows if row.get("note")]
    return folded(say("The numbers as a table"), numbers, element("p", note, class_="note"), notes)
