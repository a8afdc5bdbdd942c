"""Two ways to train, each with several seeds, on the same items: what the one gains over the other.

Seed j of both arms shares its draw of rows and its order, so seeds are paired as items are. With a_ij and b_ij the
scores of item i under seed j and size_i its denominator, the change is that of the means over seeds, and its two
margins of error are put together:

    items:  z sd(e_i) sqrt(n) / sum size,   e_i = mean_j (a_ij - b_ij) - change size_i     (linearised ratio)
    seeds:  t(S - 1) sd_j(change_j) / sqrt(S)                                              change = mean_j change_j

Flips that a run makes by chance count in both, so that the interval is rather too wide than too narrow. An arm that
was not trained, such as the base, is given once for every seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

FEWEST_SEEDS = 2
POWER = 0.8


class Between(NamedTuple):
    """The change from the second arm to the first.

    Attributes:
        change: first - second, in units of the score.
        low: low end of the two-sided interval.
        high: its high end.
        detectable: the true change that such an interval leaves zero out of with probability 80%, by the errors that
            were found: reach (z + z_p) / z.
    """

    change: float
    low: float
    high: float
    detectable: float


def between(first: ArrayLike, second: ArrayLike, sizes: ArrayLike | None = None, level: float = 0.9) -> Between:
    """The change, its interval, and what could have been seen.

    Args:
        first: scores, seeds x items (S, N).
        second: of the other arm, the same shape, the same items and seeds.
        sizes: denominators of a ratio score, (N,); None: 1 each.
        level: of the interval.

    Raises:
        ValueError: fewer than two seeds, or shapes that do not fit.
    """
    own, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if own.ndim != 2 or len(own) < FEWEST_SEEDS or own.shape != other.shape:
        raise ValueError(f"need the same items under at least {FEWEST_SEEDS} seeds; got {own.shape} and {other.shape}")
    size = np.ones(own.shape[1]) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if size.shape != own.shape[1:]:
        raise ValueError(f"{size.shape} sizes for {own.shape[1]} items")
    total, changes_SN = float(size.sum()), own - other
    seeds_S = changes_SN.sum(axis=1) / total
    change = float(seeds_S.mean())
    residuals = changes_SN.mean(axis=0) - change * size
    z = float(norm.ppf((1 + level) / 2))
    items = float(z * residuals.std(ddof=1) * np.sqrt(len(size)) / total)
    runs = float(t.ppf((1 + level) / 2, len(own) - 1) * seeds_S.std(ddof=1) / np.sqrt(len(own)))
    reach = float(np.hypot(items, runs))
    return Between(change, change - reach, change + reach, reach * (z + float(norm.ppf(POWER))) / z)
