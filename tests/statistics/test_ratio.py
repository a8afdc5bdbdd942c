"""The interval of a ratio: Student's for equal clusters, and coverage by simulation for unequal ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from keeptune.statistics.ratio import ratio_interval


def test_clusters_of_one_give_students_interval_of_the_mean():
    values = np.random.default_rng(0).normal(2, 3, 40)
    got = ratio_interval(values, np.ones(40))
    half = student.ppf(0.95, 39) * values.std(ddof=1) / 40**0.5
    assert got == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_texts_without_a_unit_do_not_count():
    assert ratio_interval([1, 0, 3], [2, 0, 4]) == ratio_interval([1, 3], [2, 4])


def test_ninety_percent_of_intervals_hold_the_ratio_of_clusters_that_hang_together():
    draw, held, rounds = np.random.default_rng(1), 0, 2000
    for _ in range(rounds):
        sizes = draw.integers(1, 20, 150)
        hits = draw.binomial(sizes, draw.beta(4, 2, 150))
        found = ratio_interval(hits, sizes)
        held += found.low <= 4 / 6 <= found.high
    assert abs(held / rounds - 0.9) < 4 * (0.09 / rounds) ** 0.5
