"""How far draws of a few seeds are stretched, so that their quantiles are those of Student's t.

    k = t(S - 1) / z sqrt(S / (S - 1))

S seeds drawn with replacement vary too little: their spread is that of S values divided by S, not by S - 1, and its
tails are normal where the mean of few values has heavier ones. k makes up for both (Hesterberg 2015, section 5.3, who
does it for items).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Floats = NDArray[np.float64]


def expansion(seeds: int, confidence: float) -> float:
    """The factor k for a two-sided interval of this confidence; 1 for one seed, which says nothing about another.

    >>> round(expansion(3, 0.90), 3), round(expansion(100, 0.90), 3)
    (2.174, 1.015)
    """
    if seeds == 1:
        return 1.0
    tail = (1 + confidence) / 2
    return float(t.ppf(tail, seeds - 1) / norm.ppf(tail) * np.sqrt(seeds / (seeds - 1)))


def stretched(shares: Floats, confidence: float) -> Floats:
    """Shares of seeds drawn with replacement, (..., S), moved away from 1/S by k; they still add up to 1."""
    seeds = shares.shape[-1]
    return np.asarray(1 / seeds + expansion(seeds, confidence) * (shares - 1 / seeds))
