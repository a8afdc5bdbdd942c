"""Numbers and verdicts as people say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIGN = {"PASS": "✓", "GAINED": "✓", "FAIL": "✗", "LOST": "✗", "UNDECIDED": "?"}
NAMES = {
    "label_accuracy": "label accuracy",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "bits_per_byte": "bits per byte",
}


def points(value: float | None, *, sign: bool = True) -> str:
    """A fraction in percentage points: `+21.4`; an absent value is a dash."""
    if value is None:
        return "–"
    shown = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return shown.replace("-", "−")


def interval(part: Mapping[str, Any]) -> str:
    """`+21.4 points (+17.0 to +25.2)`."""
    if part.get("low") is None:
        return f"{points(part.get('delta'))} points"
    return f"{points(part['delta'])} points ({points(part['low'])} to {points(part['high'])})"


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
        return f"{value:.1f} s" if value < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "–"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return "–"
