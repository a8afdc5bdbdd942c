"""Whether the model that others are compared with gives numbers at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.errors import ModelError
from keeptune.core.score import Item, Score


def refuse_without_numbers(scores: Sequence[Score], checkpoint: Checkpoint, base: Checkpoint | None) -> None:
    """Refuses scores of the base that are no numbers, in whatever dtype; those of an adapted model are its loss.

    Raises:
        ModelError: E-MODEL-NUMBERS.
    """
    if base is None or replace(checkpoint, dtype=base.dtype) != base:
        return
    for score in scores:
        broken = sum(not _is_number(item) for item in score.items)
        if broken:
            of = f"{broken:,} of {counted(len(score.items), 'item')}"
            raise ModelError(
                f"this model's log-probabilities are not finite numbers for {of} of '{score.task}'.",
                code="E-MODEL-NUMBERS",
                where={"file": checkpoint.base},
                why="Nothing can be compared with it: its weights hold no numbers, or it overflows in "
                f"{checkpoint.dtype}.",
                fix="Copy its weights again; if they are sound, set `model.dtype: float32` in a recipe.",
            )


def _is_number(item: Item) -> bool:
    """An answer may be impossible (a log-probability of minus infinity), but not without any."""
    return math.isfinite(item.score) and not math.isnan(item.gold_logprob or 0.0)
