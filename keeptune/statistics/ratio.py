"""A ratio of totals with its interval, clusters as the unit that was sampled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from keeptune.statistics.clusters import cluster_sums


class Interval(NamedTuple):
    """An estimate and its two-sided interval."""

    value: float
    low: float
    high: float


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, level: float = 0.9) -> Interval:
    """Sum of numerators over sum of denominators; value -+ t sqrt(V), V linearised, t Student's at clusters - 1.

    Args:
        numerators: one total per cluster, such as the right words of a sentence, or a difference of two such counts.
        denominators: one total per cluster, such as its words; clusters with 0 are left out.
        level: share of such intervals that hold the true ratio, for many clusters.

    Raises:
        ValueError: no cluster is left, or a value is not finite.
    """
    from scipy.stats import t as student

    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    sums = cluster_sums(top[bottom != 0], bottom[bottom != 0], np.arange(len(top))[bottom != 0])
    value, error = float(sums.ratio()[0]), float(sums.variance()[0]) ** 0.5
    half = 0.0 if error == 0 else float(student.ppf((1 + level) / 2, sums.clusters - 1)) * error
    return Interval(value, value - half, value + half)
