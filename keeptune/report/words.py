"""Numbers and verdicts as people say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.core.counting import counted
from keeptune.report.language import say

SIGN = {"PASS": "✓", "GAINED": "✓", "FAIL": "✗", "LOST": "✗", "UNDECIDED": "?"}
NAMES = {
    "label_accuracy": "label accuracy",
    "preference_accuracy": "preference accuracy",
    "cloze_accuracy": "cloze accuracy",
    "exact_match": "exact match",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "bits_per_byte": "bits per byte",
}


def points(value: float | None, *, sign: bool = True) -> str:
    """A fraction in percentage points: `+21.4`; an absent value is a dash."""
    if value is None:
        return "–"
    whole = round(100 * value, 1) + 0.0  # no minus before a zero
    shown = f"{whole:+.1f}" if sign else f"{whole:.1f}"
    return shown.replace("-", "−")


def interval(part: Mapping[str, Any]) -> str:
    """`+21.4 points (+17.0 to +25.2)`."""
    if part.get("low") is None:
        return say("{change} points", change=points(part.get("delta")))
    shown = {key: points(part[name]) for key, name in (("change", "delta"), ("low", "low"), ("high", "high"))}
    return say("{change} points ({low} to {high})", **shown)


def grid(count: int, noun: str, seeds: int, hours: float) -> str:
    """What a study's table rests on, and what it took: `9 mixtures, 1 seed each, 25 min 12 s of training and ...`."""
    return f"{counted(count, noun)}, {counted(seeds, 'seed')} each, {seconds(3600 * hours)} of training and measuring"


def took(hours: float | None, processor: str = "") -> str:
    """The sentence of a page on the time behind it, `0.24 hours of training and measuring, on AMD EPYC`."""
    if hours is None:
        return "This record was made before times were kept."
    return f"{hours:.2f} hours of training and measuring{', on ' * bool(processor)}{processor}."


def percent(value: float | None) -> str:
    """A fraction as a share: `88%`; one digit more below 1%."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if 0 < abs(value) < 0.01 else f"{100 * value:.0f}%"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number; an absent value is a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def seconds(value: float | None) -> str:
    """`8 s`, `4 min 10 s`, `2 h 5 min`."""
    if value is None:
        return "–"
    whole = round(value)
    if whole < 60:
        return say("{s} s", s=f"{value:.1f}" if value < 10 else whole)
    if whole < 3600:
        return say("{min} min {s} s", min=whole // 60, s=whole % 60)
    return say("{h} h {min} min", h=whole // 3600, min=whole % 3600 // 60)


def amount(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "–"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return say("{n} bytes", n=f"{value:.0f}") if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return "–"
