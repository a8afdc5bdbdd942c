"""The exactness set: everything that must stay equal for a resumed run to give the weights of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeptune.core.errors import RecipeError, written

ABSENT = "(absent)"
REFUSED = "E-RESUME-DIFFERENT"

Found = list[tuple[str, Any, Any]]
"""(dotted key, stored value, current value) of what differs."""


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> Found:
    """(dotted key, stored value, current value) of every entry that differs, sorted by key.

    >>> differences({"seed": 7, "data": {"task": "a1"}}, {"seed": 8, "data": {"task": "a1"}})
    [('seed', 7, 8)]
    """
    old, new = _flat(stored), _flat(current)
    keys = sorted(old.keys() | new.keys())
    return [
        (key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in keys
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]


def refusal(folder: Path, found: Found) -> RecipeError:
    """The error for a resume that would not be exact; lists every difference as `key: old -> new`."""
    return RecipeError(
        f"this run was started with other settings: {listed(found)}.",
        code="E-RESUME-DIFFERENT",
        where={"file": str(folder), "key": found[0][0]},
        why="Going on would not give the weights of an uninterrupted run.",
        fix="Restore the old settings, add --fork to start anew from these weights, or choose another --output.",
    )


def nameless(folder: Path) -> RecipeError:
    """The error for a folder whose results say nowhere how they were made: nobody could tell whether they are equal."""
    return RecipeError(
        "this folder holds results, and no exactness.json with the settings that they were made with.",
        code="E-RESUME-DIFFERENT", where={"file": str(folder)}, why="They would be written over.",
        fix="Choose another --output.",
    )  # fmt: skip


def listed(found: Found) -> str:
    """Every difference as `key: old -> new`."""
    return "; ".join(f"{key}: {_short(old)} -> {_short(new)}" for key, old, new in found)


def _short(value: Any, limit: int = 48) -> str:
    text = written(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _flat(plain: Any, above: str = "") -> dict[str, Any]:
    if isinstance(plain, Mapping) and plain:
        flat: dict[str, Any] = {}
        for key, inner in plain.items():
            flat.update(_flat(inner, f"{above}.{key}" if above else str(key)))
        return flat
    if isinstance(plain, list) and any(isinstance(inner, (Mapping, list)) for inner in plain):
        return {key: value for i, inner in enumerate(plain) for key, value in _flat(inner, f"{above}[{i}]").items()}
    return {above: plain}
