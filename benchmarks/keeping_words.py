"""Figures of what recipes keep in words: values with their intervals, differences, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.report.words import points

Row = Mapping[str, Any]


def reading(found: Row, *, sign: bool = True, unit: str = "") -> str:
    """A value with its interval, in points or per cent: `+3.1 (+1.0 to +5.2)`."""
    known = {key: found[key] if found[key] is None else round(found[key], 4) + 0.0 for key in ("value", "low", "high")}
    ends = {key: points(one, sign=sign) + unit for key, one in known.items()}
    return ends["value"] if found["low"] is None else f"{ends['value']} ({ends['low']} to {ends['high']})"


def told(found: Row, unit: str = "points") -> str:
    """A difference in words; where its interval holds nothing, the difference that would have been seen."""
    if found["value"] is None:
        return "not measured"
    shown = f"{reading(found)} {unit}"
    if found["low"] <= 0 <= found["high"]:
        return f"{shown}, not told apart; {points(found['visible'], sign=False)} would have been, four times in five"
    return shown


def kept(lost: Row) -> str:
    """What was kept: 100% minus what was forgotten, with its interval."""
    left = {"value": 1 - lost["value"], "low": 1 - lost["high"], "high": 1 - lost["low"]}
    return reading(left, sign=False, unit="%")


def losses(row: Row) -> list[str]:
    """The three kinds of loss of a cell."""
    return [reading(row["ability_lost"]), reading(row["leak_gained"]), reading(row["bits_rise"], unit="%")]


def share(value: float) -> str:
    """A share in whole per cent."""
    return f"{100 * value:.0f}%"


def correlation(found: Row) -> str:
    """A rank correlation with its interval."""
    if found["low"] is None:
        return "–" if found["value"] is None else f"{found['value']:.2f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})".replace("-", "−")


def listed(names: Sequence[object]) -> str:
    """`7, 8 and 9`."""
    return " and ".join(part for part in (", ".join(map(str, names[:-1])), str(names[-1])) if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
