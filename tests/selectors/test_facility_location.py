"""Facility location against the plain greedy in double precision, and against all subsets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from keeptune.selectors import _lazy_greedy
from keeptune.selectors._lazy_greedy import lazy_greedy
from tests.selectors.conftest import directions
from tests.selectors.test_kcenter import selected


def value(likeness: np.ndarray, chosen: list[int]) -> float:
    return float(likeness[:, chosen].max(axis=1).sum())


@pytest.mark.parametrize(("seed", "candidates"), [(0, 64), (1, 1), (2, 7)])
def test_no_other_point_ever_gains_more(seed, candidates, monkeypatch):
    monkeypatch.setattr(_lazy_greedy, "CANDIDATES", candidates)
    points = directions(120, 6, seed)
    indices, gains = lazy_greedy(points, 40)
    assert len(set(indices)) == 40
    wide = points.astype(np.float64)
    likeness, chosen = (1 + wide @ wide.T) / 2, []
    for index, gain in zip(indices, gains, strict=True):
        now = value(likeness, chosen) if chosen else 0.0
        exact = [value(likeness, [*chosen, j]) - now for j in range(len(points))]
        assert gain == pytest.approx(exact[index], abs=2e-6)
        assert gain >= max(exact) - 2e-6, "the plain greedy finds nothing better, but for rounding"
        chosen.append(index)


def test_the_value_is_at_least_its_guarantee_of_the_best_subset():
    points = directions(14, 3, seed=5)
    likeness = (1 + points @ points.T) / 2
    best = max(value(likeness, list(trio)) for trio in itertools.combinations(range(14), 3))
    assert (1 - 1 / math.e) * best <= value(likeness, list(lazy_greedy(points, 3)[0])) <= best + 1e-5


def test_an_outlier_comes_late_here_and_second_in_kcenter():
    points = np.concatenate([directions(40, 4, seed=1) * [0.1, 0.1, 0.1, 0] + [0, 0, 0, 1.0], [[0, 0, 0, -1.0]]])
    assert 40 not in selected({"name": "facility_location", "rows": 1}, points).indices
    assert selected({"name": "kcenter", "rows": 2}, points).indices[1] == 40


def test_equal_points_are_taken_by_their_index_and_all_can_be_taken():
    points = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    chosen = selected({"name": "facility_location", "share": 1.0}, points)
    assert chosen.indices == (0, 2, 4, 1, 3, 5)
    np.testing.assert_allclose(chosen.scores[3:], 0, atol=1e-6)
