"""One arm against several random draws of the same kind: did the choice do better than chance would do again?

All arms answer the same items. With a_i the arm's item scores, r_ij those of draw j, and s the standard deviation of
the draws' values, the change is a - mean_j r_j, and its two margins of error are put together:

    items:  z sd(e_i) sqrt(n) / sum size,   e_i = (a_i - mean_j r_ij) - change size_i     (linearised ratio)
    draws:  t(k - 1) s sqrt(1 + 1/k)

The second is that of a prediction: the arm is one run, taken to vary as one draw does, and the mean of k draws varies
too. Flips that a run makes by chance count in both, so that the interval is rather too wide than too narrow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

FEWEST_DRAWS = 3


class Against(NamedTuple):
    """The change from the mean of the draws to the arm, with a two-sided interval."""

    change: float
    low: float
    high: float


def against_draws(arm: ArrayLike, draws: ArrayLike, sizes: ArrayLike | None = None, level: float = 0.9) -> Against:
    """The change and its interval.

    Args:
        arm: score of each item, (n,).
        draws: of each draw, (k, n).
        sizes: denominators of a ratio score, (n,); None: 1 each.
        level: of the interval.

    Raises:
        ValueError: fewer than three draws, or shapes that do not fit.
    """
    own, drawn = np.asarray(arm, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    size = np.ones(len(own)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if drawn.ndim != 2 or len(drawn) < FEWEST_DRAWS or drawn.shape[1:] != own.shape or size.shape != own.shape:
        raise ValueError(f"need at least {FEWEST_DRAWS} draws of the arm's items; got {drawn.shape} for {own.shape}")
    total = float(size.sum())
    values = drawn.sum(axis=1) / total
    change = float(own.sum() / total - values.mean())
    residuals = own - drawn.mean(axis=0) - change * size
    items = float(norm.ppf((1 + level) / 2) * residuals.std(ddof=1) * np.sqrt(len(own)) / total)
    runs = float(t.ppf((1 + level) / 2, len(drawn) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(drawn)))
    reach = float(np.hypot(items, runs))
    return Against(change, change - reach, change + reach)
