"""Score intervals beyond independent items of one task: clusters by a design effect, several tasks by MOVER.

A bootstrap cannot see a flip that did not happen: items of which none flipped would give an interval of width 0. These
two keep the width that n items deserve. All counts may be arrays of shape (N,), N data sets side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeptune.statistics.clusters import Sums
from keeptune.statistics.paired_score import score_interval

Floats = NDArray[np.float64]


def clustered_score_interval(
    sums: Sums, gains: Floats, losses: Floats, *, level: float = 0.90
) -> tuple[Floats, Floats]:
    """Tango's interval of n / D items, where D is the design effect of the clusters.

    D is the clustered over the independent variance of the mean difference, at least 1. Where the independent variance
    is 0 (no flip, or all alike) a cluster counts as one item.

    Args:
        sums: differences (-1, 0 or 1 per item) by cluster, denominators the numbers of items.
        gains: items that went from wrong to right, shape (N,).
        losses: items that went from right to wrong, shape (N,).
        level: two-sided confidence.

    Returns:
        (low, high), each of shape (N,).
    """
    n = sums.denominators @ sums.multiplicity
    gained, lost = gains / n, losses / n
    independent = (gained + lost - (gained - lost) ** 2) / np.maximum(n - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        design = np.maximum(sums.variance() / independent, 1.0)
    effective = np.where((independent > 0) & np.isfinite(design), n / design, sums.effective_clusters())
    return score_interval(effective, gained * effective, lost * effective, level=level)


def combine_tasks(deltas: Sequence[Floats], lows: Sequence[Floats], highs: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Equal-weight mean of T tasks from their own intervals (MOVER; Zou and Donner 2008, Stat Med 27:1693-1702).

        low = delta - sqrt(sum_t (delta_t - low_t)^2) / T          high = delta + sqrt(sum_t (high_t - delta_t)^2) / T

    Distances are combined as standard errors are, each side by itself, so skewed intervals stay skewed.
    """
    centre = np.mean(deltas, axis=0)
    below = np.sqrt(np.square(np.subtract(deltas, lows)).sum(axis=0)) / len(deltas)
    above = np.sqrt(np.square(np.subtract(highs, deltas)).sum(axis=0)) / len(deltas)
    return centre - below, centre + above
