"""A ratio of totals with its interval; clusters, and runs where there are several, are what was sampled."""

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


def ratio_over_seeds(numerators: ArrayLike, denominators: ArrayLike, level: float = 0.9) -> Interval:
    """The mean over S seeds of each seed's ratio on the same clusters, with the margins of both put together.

        mean r_s -+ sqrt( (half-width of `ratio_interval` for the numerators' mean over seeds)^2
                          + (t(S - 1) sd_s(r_s) / sqrt(S))^2 )

    What a seed and a cluster do together counts in both, so that the interval is rather too wide than too narrow. One
    seed says nothing about others: the interval is then that of its clusters.

    Args:
        numerators: totals by seed and cluster, (S, C).
        denominators: one total per cluster, (C,).
        level: of the interval.

    Raises:
        ValueError: as `ratio_interval`.
    """
    from scipy.stats import t as student

    tops, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    own = ratio_interval(tops.mean(axis=0), bottom, level)
    seeds = len(tops)
    if seeds == 1:
        return own
    spread = float((tops.sum(axis=1) / bottom.sum()).std(ddof=1))
    half = float(np.hypot(own.high - own.value, student.ppf((1 + level) / 2, seeds - 1) * spread / np.sqrt(seeds)))
    return Interval(own.value, own.value - half, own.value + half)
