"""The interval of a ratio: Student's for equal clusters, and coverage by simulation for unequal ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from keeptune.statistics.ratio import ratio_interval, ratio_over_seeds


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


def test_one_seed_says_what_its_texts_say_and_equal_seeds_add_nothing():
    draw = np.random.default_rng(2)
    sizes = draw.integers(0, 9, 60)
    hits = draw.binomial(sizes, 0.7)
    alone = ratio_interval(hits, sizes)
    assert ratio_over_seeds([hits], sizes) == alone
    assert ratio_over_seeds([hits] * 3, sizes) == pytest.approx(alone)


def test_seeds_that_differ_on_texts_that_do_not_give_students_interval_over_seeds():
    rates = np.array([0.5, 0.6, 0.8])
    got = ratio_over_seeds(rates[:, None] * np.full(40, 10), np.full(40, 10))
    half = student.ppf(0.95, 2) * rates.std(ddof=1) / 3**0.5
    assert got == pytest.approx((rates.mean(), rates.mean() - half, rates.mean() + half))


def test_ninety_percent_of_intervals_or_more_hold_the_ratio_when_texts_and_seeds_are_drawn():
    draw, held, rounds = np.random.default_rng(3), 0, 2000
    for _ in range(rounds):
        sizes = draw.integers(1, 20, 150)
        rates = draw.beta(4, 2, 150) + draw.normal(0, 0.02, 3)[:, None]
        found = ratio_over_seeds(draw.binomial(sizes, rates.clip(0, 1)), sizes)
        held += found.low <= 4 / 6 <= found.high
    assert 0.9 - 4 * (0.09 / rounds) ** 0.5 < held / rounds < 0.98
