"""Oracles: a published example, a numeric maximum-likelihood search on a slow grid, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import norm

from keeptune.statistics.paired_score import score_interval, score_statistic


def interval(n, gains, losses, **settings):
    low, high = score_interval(n, gains, losses, **settings)
    return float(low), float(high)


def slow_statistic(n, gains, losses, lam):
    """The score statistic with its nuisance found by numeric search instead of the closed form."""
    least, most = max(0.0, -lam), (1 - lam) / 2

    def minus_log_likelihood(loss):
        same = max(1 - 2 * loss - lam, 0.0)
        return -(xlogy(gains, max(loss + lam, 0.0)) + xlogy(losses, loss) + xlogy(n - gains - losses, same))

    loss = minimize_scalar(minus_log_likelihood, bounds=(least, most), method="bounded", options={"xatol": 1e-13}).x
    return (gains - losses - n * lam) / np.sqrt(n * (2 * loss + lam * (1 - lam)))


def test_the_airway_example_gives_the_published_interval():
    # Fagerland, Lydersen and Laake 2014, Stat Med 33:2850: Tango's interval of the table 1, 1, 7, 12.
    low, high = interval(21, 1, 7, level=0.95, continuity=False)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("n", "gains", "losses"), [(21, 1, 7), (44, 0, 1), (100, 5, 5), (300, 20, 31), (50, 12, 0)])
def test_the_interval_is_where_a_slow_grid_stops_rejecting(n, gains, losses):
    low, high = interval(n, gains, losses, continuity=False)
    z = norm.ppf(0.95)
    step = 1e-3
    kept = [lam for lam in np.arange(-0.6, 0.6, step) if abs(slow_statistic(n, gains, losses, lam)) <= z]
    assert abs(min(kept) - low) <= step
    assert abs(max(kept) - high) <= step


@pytest.mark.parametrize("lam", [-0.9, -0.3, -0.01, 0.01, 0.2, 0.7])
@pytest.mark.parametrize(("n", "gains", "losses"), [(21, 1, 7), (60, 9, 9), (200, 0, 3), (200, 4, 0)])
def test_the_closed_form_equals_the_numeric_search(n, gains, losses, lam):
    closed = float(score_statistic(n, gains, losses, lam))
    assert closed == pytest.approx(slow_statistic(n, gains, losses, lam), rel=1e-4)


@pytest.mark.parametrize("n", [1, 5, 100, 1_500, 100_000])
def test_without_a_flip_the_half_width_is_the_closed_form(n):
    z2 = norm.ppf(0.95) ** 2
    low, high = interval(n, 0, 0, continuity=False)
    assert high == pytest.approx(z2 / (n + z2), rel=1e-9)
    assert low == -high


def test_the_half_step_moves_each_end_outwards_by_about_half_an_item():
    plain, corrected = interval(1_319, 99, 99, continuity=False), interval(1_319, 99, 99)
    assert plain[0] - corrected[0] == pytest.approx(0.5 / 1_319, rel=0.02)
    assert corrected[1] - plain[1] == pytest.approx(0.5 / 1_319, rel=0.02)


def test_when_every_item_flips_the_end_is_one():
    assert interval(10, 10, 0)[1] == 1.0
    assert interval(10, 0, 10)[0] == -1.0
    assert interval(1, 0, 1)[0] == -1.0


counts = st.integers(1, 3_000).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[0] - pair[1]))
    )
)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_the_interval_holds_the_estimate_stays_in_range_and_mirrors(table):
    n, gains, losses = table
    low, high = interval(n, gains, losses)
    assert -1 <= low <= (gains - losses) / n <= high <= 1
    mirrored = interval(n, losses, gains)
    assert mirrored == (-high, -low)
    narrow = interval(n, gains, losses, level=0.5)
    assert low <= narrow[0]
    assert narrow[1] <= high


def test_an_end_is_the_point_where_the_test_turns():
    low, high = interval(500, 30, 44)
    z = norm.ppf(0.95)
    assert float(score_statistic(500, 30, 44, low, half_step=-0.5)) == pytest.approx(z, abs=1e-9)
    assert float(score_statistic(500, 30, 44, high, half_step=0.5)) == pytest.approx(-z, abs=1e-9)


def test_arrays_give_what_single_tables_give():
    gains, losses = np.array([0, 3, 20]), np.array([2, 3, 1])
    lows, highs = score_interval(120, gains, losses)
    for index in range(3):
        assert (lows[index], highs[index]) == interval(120, gains[index], losses[index])


@pytest.mark.parametrize("table", [(0, 0, 0), (10, -1, 0), (10, 6, 5)])
def test_impossible_counts_are_refused(table):
    with pytest.raises(ValueError, match="counts need"):
        score_interval(*table)
