"""Two arms over seeds: read against a direct computation, and how often the interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from keeptune.statistics.two_arms import between


def test_one_kind_of_error_alone_is_its_textbook_interval():
    generator = np.random.default_rng(1)
    own = generator.normal(size=40)
    found = between(np.stack([own + 0.5] * 3), np.zeros((3, 40)))
    reach = norm.ppf(0.95) * own.std(ddof=1) / np.sqrt(40)
    assert found.change == pytest.approx(own.mean() + 0.5)
    assert found.high - found.change == pytest.approx(reach)  # seeds that agree add nothing
    seeds = np.array([0.1, 0.2, 0.6])
    found = between(np.repeat(seeds[:, None], 40, axis=1), np.zeros((3, 40)))
    assert found.change == pytest.approx(0.3)
    assert found.high - found.change == pytest.approx(t.ppf(0.95, 2) * seeds.std(ddof=1) / np.sqrt(3))


def test_sizes_are_denominators():
    bits = np.array([[4.0, 10.0], [6.0, 14.0]])
    found = between(bits, bits / 2, sizes=[2.0, 8.0])
    assert found.change == pytest.approx(((4 + 10) / 10 + (6 + 14) / 10) / 4)


def test_the_interval_holds_the_truth_and_the_detectable_change_is_found_at_least_so_often():
    generator = np.random.default_rng(7)
    seeds, items, held, seen, trials = 3, 120, 0, 0, 600
    for _ in range(trials):
        item = generator.normal(0, 1, items)
        run = generator.normal(0, 0.08, (2, seeds))
        noise = generator.normal(0, 1, (2, seeds, items))
        change = item * 0.5 + (run[0] - run[1])[:, None] + noise[0] - noise[1]
        found = between(change, np.zeros((seeds, items)))
        held += found.low <= 0 <= found.high
        moved = between(change + found.detectable, np.zeros((seeds, items)))
        seen += moved.low > 0
    assert held / trials > 0.88
    assert seen / trials > 0.75


@pytest.mark.parametrize("shapes", [((1, 4), (1, 4)), ((2, 4), (2, 5)), ((3, 4), (2, 4))])
def test_what_does_not_fit_is_refused(shapes):
    with pytest.raises(ValueError, match="same items"):
        between(np.zeros(shapes[0]), np.zeros(shapes[1]))
