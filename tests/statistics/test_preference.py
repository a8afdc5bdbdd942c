"""Win, tie, lose: against counting, the score interval's own coverage, and the two orders."""

from __future__ import annotations

import numpy as np
import pytest

from keeptune.statistics.paired_score import score_interval
from keeptune.statistics.preference import in_both_orders, preference


def test_the_net_preference_counts_ties_as_nothing():
    found = preference(["win"] * 30 + ["lose"] * 10 + ["tie"] * 60)
    assert (found.wins, found.ties, found.losses, found.n) == (30, 60, 10, 100)
    assert found.net == pytest.approx(0.2)
    assert (found.low, found.high) == tuple(float(end) for end in score_interval(100, 30, 10))
    assert found.low > 0


def test_sides_exchanged_turn_the_interval_round():
    one = preference(["win"] * 7 + ["lose"] * 3 + ["tie"] * 5)
    other = preference(["lose"] * 7 + ["win"] * 3 + ["tie"] * 5)
    assert (other.low, other.high) == (pytest.approx(-one.high), pytest.approx(-one.low))


@pytest.mark.slow
def test_the_interval_covers_the_true_preference_in_simulation():
    generator, covered = np.random.default_rng(0), 0
    for wins, losses, _ in generator.multinomial(120, [0.3, 0.2, 0.5], size=2000):
        low, high = (float(end) for end in score_interval(120, wins, losses))
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 2000 <= 0.95


@pytest.mark.parametrize(
    ("orders", "told"),
    [(("win", "win"), "win"), (("lose", "lose"), "lose"), (("win", "lose"), "tie"), (("tie", "win"), "tie")],
)
def test_a_win_needs_both_orders(orders, told):
    assert in_both_orders(*orders) == told


def test_nothing_to_count_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        preference([])
