"""What a target gained, in the unit of its metric, and always with more to the right.

A share (accuracy, exact match, ROUGE-L, F1) is told in percent and changes by points. Bits per byte are a plain number
that should fall, and their change is a share of the base's: 3.53 to 3.02 is 14.5% saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.report.language import say
from keeptune.report.words import number, percent, points

Target = Mapping[str, Any]  # the certificate's part of that name; empty when none was measured


def is_saving(target: Target) -> bool:
    """Whether less is better."""
    return not target.get("higher_is_better", True)


def target_value(target: Target, value: float | None) -> str:
    """A score in its own unit: `27%`, `3.016`."""
    return number(value) if is_saving(target) else percent(value)


def from_to(target: Target) -> str:
    """`10% → 27%`, `3.529 → 3.016`."""
    return f"{target_value(target, target.get('base'))} → {target_value(target, target.get('adapted'))}"


def change(target: Target) -> str:
    """`+16.9 points`; of bits per byte `−14.5%`."""
    shown = points(target.get("delta"))
    return f"{shown}%" if is_saving(target) else say("{change} points", change=shown)


def gained(target: Target) -> tuple[float | None, float | None, float | None]:
    """The change and the ends of its interval as fractions, with better on the right."""
    delta, low, high = target.get("delta"), target.get("low"), target.get("high")
    if not is_saving(target):
        return delta, low, high
    return _minus(delta), _minus(high), _minus(low)


def reached(target: Target, value: float, base: float) -> float:
    """How far a checkpoint came: its score, or the share of the base's bits per byte that it saved."""
    return 1 - value / base if is_saving(target) else value


def toward(target: Target, trail: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A trail whose `target` is how far each checkpoint came, so that more is better whatever the metric."""
    rows = [row for row in trail if row.get("target") is not None]
    return [{**row, "target": reached(target, row["target"], rows[0]["target"])} for row in rows]


def change_label(target: Target) -> str:
    """The axis of `gained`."""
    return say("bits per byte saved, %") if is_saving(target) else say("change of the target score, points")


def reached_label(target: Target) -> str:
    """The axis of `reached`."""
    return "bits per byte saved, % (dev)" if is_saving(target) else "target score, % (dev)"


def reached_text(target: Target, level: float) -> str:
    """Completes `where each run first ...`."""
    return f"saved {percent(level)} of the base's bits per byte" if is_saving(target) else f"reached {percent(level)}"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
