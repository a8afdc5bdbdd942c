"""The interval against random draws: closed form on small numbers, coverage by simulation, and no false discoveries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from keeptune.statistics.against_draws import against_draws


def test_the_change_and_both_margins_by_hand():
    arm = [1.0, 0.0, 1.0, 1.0]
    draws = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    found = against_draws(arm, draws)
    values = [0.25, 0.5, 0.75]
    assert found.change == pytest.approx(0.75 - 0.5)
    gaps = [1 - 2 / 3, 0 - 1 / 3, 1 - 2 / 3, 1 - 1 / 3]
    items = norm.ppf(0.95) * np.std(gaps, ddof=1) / 2
    runs = t.ppf(0.95, 2) * np.std(values, ddof=1) * np.sqrt(4 / 3)
    assert found.high - found.change == pytest.approx(np.hypot(items, runs))
    assert found.change - found.low == pytest.approx(found.high - found.change)


def test_bits_per_byte_are_a_ratio_of_sums():
    random = np.random.default_rng(0)
    sizes = random.integers(10, 200, size=50).astype(float)
    draws = sizes * 2 + random.normal(size=(4, 50))
    arm = sizes * 1.5
    found = against_draws(arm, draws, sizes)
    assert found.change == pytest.approx(1.5 - draws.sum() / 4 / sizes.sum())
    assert found.high < 0
    same = against_draws(arm / sizes * 3, draws / sizes * 3, np.full(50, 3.0))
    assert same.change == pytest.approx(float(np.mean(arm / sizes) - np.mean(draws / sizes)))


def test_too_few_draws_or_other_items_are_refused():
    with pytest.raises(ValueError, match="at least 3 draws"):
        against_draws([1.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="got"):
        against_draws([1.0, 0.0, 1.0], [[1.0, 0.0]] * 3)


@pytest.mark.parametrize(("spread", "items"), [(0.0, 200), (0.03, 200), (0.03, 1000)])
def test_an_arm_that_is_a_draw_itself_is_inside_as_often_as_the_level_says(spread, items):
    """Runs differ in ability by `spread` and flip items of their own; the sixth run is as random as the other five."""
    random = np.random.default_rng(3)
    inside, tries = 0, 600
    for _ in range(tries):
        ease = random.normal(size=items)
        ability = spread * random.normal(size=6)
        right = (ease + 8 * ability[:, None] + 0.7 * random.normal(size=(6, items)) > 0).astype(float)
        found = against_draws(right[5], right[:5])
        inside += found.low <= 0 <= found.high
    assert inside / tries > 0.9 - 3 * np.sqrt(0.9 * 0.1 / tries)
