"""The pipeline of the 0.5% paper against scipy's k-means and a slow loop, on tasks whose clusters are plain."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector
from keeptune.selectors._clusters import k_means
from tests.selectors.test_kcenter import slow


def two_tasks() -> tuple[np.ndarray, list[Example]]:
    """Three tight clusters: `one` lies mostly in the first, `two` mostly in the third; both have some of the second."""
    generator = np.random.default_rng(3)
    centres = np.eye(3) * 3
    sizes = {"one": (50, 10, 0), "two": (0, 15, 35)}
    points, rows = [], []
    for task, counts in sizes.items():
        for centre, count in zip(centres, counts, strict=True):
            points.append(centre + generator.normal(size=(count, 3)) * 0.2)
            rows += [task] * count
    order = generator.permutation(len(rows))
    rows = [Example(str(number), text="a", source=rows[place]) for number, place in enumerate(order)]
    return np.concatenate(points)[order].astype(np.float32), rows


def test_clusters_are_those_of_scipy_on_plain_data():
    points, _ = two_tasks()
    labels, centres = k_means(points, 3, seed=1)
    assert sorted(np.bincount(labels)) == [25, 35, 50]
    known, expected = kmeans2(points.astype(np.float64), centres.astype(np.float64), minit="matrix", iter=50)[::-1]
    np.testing.assert_array_equal(labels, known)
    np.testing.assert_allclose(centres, expected, atol=1e-5)


def test_each_task_begins_in_its_own_largest_cluster_and_goes_on_farthest_first():
    points, rows = two_tasks()
    chosen = validate(Selector, {"name": "half_percent", "share": 0.1, "clusters": 3}).select(
        rows, Context(seed=1, embeddings=points)
    )
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    _, labels = kmeans2(unit.astype(np.float64), np.eye(3), minit="matrix", iter=50)
    expected: list[int] = []
    for task in dict.fromkeys(row.source for row in rows):
        own = np.array([place for place, row in enumerate(rows) if row.source == task])
        counts = np.bincount(labels[own])
        centre = unit[labels == np.argmax(counts)].mean(axis=0)
        first = int(np.argmax(unit[own] @ centre))
        expected += own[slow(unit[own], first, round(0.1 * len(own)))[0]].tolist()
    assert list(chosen.indices) == expected
    assert len(expected) == 6 + 5
    assert [reason.startswith("task centre") for reason in chosen.reasons].count(True) == 2


def test_a_task_of_few_rows_keeps_one():
    points, rows = two_tasks()
    chosen = validate(Selector, "half_percent").select(rows, Context(embeddings=points))
    assert len(chosen.indices) == 2
    assert {rows[place].source for place in chosen.indices} == {"one", "two"}
