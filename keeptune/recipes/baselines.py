"""What the base does without training: asked as it is, and with a few worked examples before the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import KeeptuneError
from keeptune.core.example import Example, Message

if TYPE_CHECKING:
    from keeptune.core.checkpoint import Checkpoint
    from keeptune.core.score import Score
    from keeptune.evaluations import Context
    from keeptune.evaluations.target import Target

SHOTS = (0, 1, 4)
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Baseline:
    """The base's score with so many examples before the question.

    Attributes:
        shots: how many.
        score: on dev rows.
        low: lower end of the 90% interval.
        high: upper end.
        n: rows.
        examples: what stood before every question, as turns.
    """

    shots: int
    score: float
    low: float
    high: float
    n: int
    examples: tuple[dict[str, Any], ...] = ()


def baselines(base: Checkpoint, context: Context, target: Target, seed: int) -> list[Baseline]:
    """The base on dev rows, zero-shot and few-shot; text without questions has no few-shot form.

    A number of shots that does not fit into the model's context is left out.
    """
    rows, train = context.rows(target.data, "dev"), context.rows(target.data, "train")
    asks = target.model_copy(update={"split": "dev"})
    found = []
    for shots in SHOTS if all(row.text is None for row in rows) else (0,):
        examples = demonstrations(train, shots, seed)
        turns = [turn for example in examples for turn in example.messages if turn.role != "system"]
        data = {**context.data, f"{target.data}/dev": [led_by(turns, row) for row in rows]}
        try:
            (score,) = asks.measure(base, replace(context, data=data))
        except KeeptuneError:
            if shots:
                continue
            raise
        low, high = interval(score)
        found.append(Baseline(shots, score.value, low, high, score.n, tuple(turn.to_dict() for turn in turns)))
    return found


def demonstrations(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """So many rows, of different answers as far as there are such; the same for the same seed."""
    order = sorted(rows, key=lambda row: row.id)
    Random(f"demonstrations|{seed}").shuffle(order)
    first: dict[str, Example] = {}
    for row in order:
        first.setdefault(row.target, row)
    chosen = [*first.values(), *(row for row in order if first[row.target] is not row)]
    return chosen[:count]


def led_by(turns: Sequence[Message], row: Example) -> Example:
    """The row with these turns between its system turn and its own."""
    own = row.messages[:1] if row.messages and row.messages[0].role == "system" else ()
    return replace(row, messages=(*own, *turns, *row.messages[len(own) :]))


def interval(score: Score) -> tuple[float, float]:
    """90% interval of a mean: Wilson's for right or wrong, else 1.645 standard errors to each side."""
    from scipy import stats

    if score.binary and score.n:
        found = stats.binomtest(round(score.value * score.n), score.n).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
    reach = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * score.standard_error
    return score.value - reach, score.value + reach
