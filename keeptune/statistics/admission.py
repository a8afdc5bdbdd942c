"""Which tasks may speak: one that the base model cannot do shows no forgetting, one at its ceiling hides it.

Admitted when all three hold:

    base - chance >= 5 margins              a loss of the margin is a small part of what there is to lose
    P(X >= right answers | chance) < 0.01   X counts right answers of a guesser
    base <= ceiling

Chance may differ per item (items with 2, 4 or 77 options). X is then a sum of binomials, one per distinct chance, and
its distribution is their convolution: exact, no normal approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

MARGINS_ABOVE_CHANCE = 5.0
SIGNIFICANCE = 0.01
CEILING = 0.995


@dataclass(frozen=True)
class Admission:
    """Whether a task enters the proof.

    Attributes:
        admitted: all three conditions hold.
        reason: one clause for the page, with the numbers it rests on.
        base: mean score of the base model.
        chance: mean chance over items.
        p_value: one-sided exact probability of so many right answers by guessing.
    """

    admitted: bool
    reason: str
    base: float
    chance: float
    p_value: float


def admit(base: ArrayLike, chance: float | ArrayLike, margin: float, *, ceiling: float = CEILING) -> Admission:
    """Decides on the base model's answers alone, before the adapted model is looked at.

    Args:
        base: 0 or 1 per item.
        chance: probability of a right answer by guessing: one number, or one per item.
        margin: the task's margin, a fraction.
        ceiling: highest base score that is admitted.

    Raises:
        ValueError: no items, a score that is neither 0 nor 1, or a chance outside [0, 1).
    """
    right = np.asarray(base, dtype=np.float64)
    if right.ndim != 1 or len(right) == 0 or not np.isin(right, (0.0, 1.0)).all():
        raise ValueError("admission needs one score per item, each 0 or 1")
    per_item = np.broadcast_to(np.asarray(chance, dtype=np.float64), right.shape)
    if not ((per_item >= 0) & (per_item < 1)).all():
        raise ValueError("chance is a probability below 1")
    score, guess, p_value = float(right.mean()), float(per_item.mean()), guess_p_value(int(right.sum()), per_item)
    reached = f"base {100 * score:.1f}%, chance {100 * guess:.1f}%"
    # The margin itself is a rounded decimal: 0.40 - 0.25 must count as five times 0.03.
    if score - guess < MARGINS_ABOVE_CHANCE * margin - 1e-12:
        room = f"less than {MARGINS_ABOVE_CHANCE:.0f} margins of {100 * margin:.1f} points above chance"
        return Admission(False, f"{reached}: {room}", score, guess, p_value)
    if p_value >= SIGNIFICANCE:
        return Admission(False, f"{reached}: could be guessing (p = {p_value:.3f})", score, guess, p_value)
    if score > ceiling:
        return Admission(False, f"{reached}: at the ceiling of {100 * ceiling:.1f}%", score, guess, p_value)
    return Admission(True, f"{reached}, p < {SIGNIFICANCE}", score, guess, p_value)


def guess_p_value(right: int, chance_N: NDArray[np.float64]) -> float:
    """P(X >= right) for a guesser whose chance on item i is chance_N[i].

    >>> round(guess_p_value(2, np.array([0.5, 0.5])), 2)
    0.25
    """
    distribution = np.ones(1)
    for chance, items in zip(*np.unique(chance_N, return_counts=True), strict=True):
        distribution = np.convolve(distribution, binom.pmf(np.arange(items + 1), items, chance))
    return float(min(1.0, distribution[right:].sum()))
