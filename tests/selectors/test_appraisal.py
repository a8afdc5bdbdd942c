"""Measures of a choice agree with loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keeptune.core.example import Example, Message
from keeptune.selectors._appraisal import Appraiser, nearest_distance


def row(number: int, said: str, answer: str) -> Example:
    return Example(str(number), (Message("user", said), Message("assistant", answer)))


ROWS = [
    row(0, "one two", "a"),
    row(1, "one two three four", "b c"),
    row(2, "x", "a"),
    row(3, "five six seven", "d e f"),
]


def test_distances_are_those_of_a_loop_over_pairs():
    random = np.random.default_rng(0)
    points, others = random.normal(size=(30, 5)).astype(np.float32), random.normal(size=(7, 5)).astype(np.float32)
    slow = [min(math.dist(point, other) for other in others) for point in points]
    np.testing.assert_allclose(nearest_distance(points, others), slow, rtol=1e-5)
    assert nearest_distance(points, points).max() < 1e-2


def test_a_choice_is_measured_over_all_that_could_be_chosen():
    random = np.random.default_rng(1)
    points = (3 * random.normal(size=(4, 6))).astype(np.float32)
    queries = random.normal(size=(3, 6)).astype(np.float32)
    unit = [point / np.linalg.norm(point) for point in points]
    asked = [query / np.linalg.norm(query) for query in queries]
    found = Appraiser(ROWS, points, queries)([1, 3])
    gaps = [min(math.dist(point, unit[1]), math.dist(point, unit[3])) for point in unit]
    assert found.radius == pytest.approx(max(gaps), abs=1e-5)
    assert found.distance == pytest.approx(sum(gaps) / 4, abs=1e-3)
    assert found.nearest_query == pytest.approx(
        sum(max(float(unit[i] @ query) for query in asked) for i in (1, 3)) / 2, abs=1e-5
    )
    assert (found.words, found.answer_words, found.answers) == (6.0, 2.5, 2)


def test_everything_chosen_covers_everything_and_without_queries_nothing_is_said_of_them():
    points = np.eye(4, dtype=np.float32)
    found = Appraiser(ROWS, points)(range(4))
    assert found.radius == found.distance == 0
    assert found.nearest_query is None
    assert found.answers == 3
