"""k-center against a slow loop, an exhaustive search, and data made so that the answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector, _clusters, _farthest_first
from keeptune.selectors._blocks import Blocks
from keeptune.selectors._clusters import k_means, largest_cluster
from keeptune.selectors._farthest_first import farthest_first


def points(count: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(7, width)) * 3
    return (centres[generator.integers(7, size=count)] + generator.normal(size=(count, width))).astype(np.float32)


def slow(data: np.ndarray, first: int, count: int) -> tuple[list[int], list[float]]:
    """Every distance to every centre, one centre at a time, in float64."""
    wide, indices, distances = data.astype(np.float64), [first], [0.0]
    nearest = np.full(len(data), np.inf)
    while len(indices) < count:
        nearest = np.minimum(nearest, np.linalg.norm(wide - wide[indices[-1]], axis=1))
        nearest[indices[-1]] = -1
        best = int(np.argmax(nearest))
        indices.append(best)
        distances.append(float(nearest[best]))
    return indices, distances


@pytest.fixture(params=[1, 3, 20], ids="blocks {}".format)
def blocks(request, monkeypatch):
    """So many blocks at most, however few points and centres there are."""
    monkeypatch.setattr(_farthest_first, "BLOCKS", request.param)
    monkeypatch.setattr(_farthest_first, "FEWEST", 1)
    monkeypatch.setattr(_farthest_first, "FEWEST_CENTRES", 1)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("pools", [(64, 16), (300, 5), (1,), (), (4096, 512)])
@pytest.mark.parametrize("width", [2, 24])
def test_every_choice_and_distance_is_that_of_the_slow_loop(pools, width):
    data = points(500, width)
    indices, distances = farthest_first(data, 17, 200, pools=pools)
    expected_indices, expected_distances = slow(data, 17, 200)
    assert indices.tolist() == expected_indices
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pools", [(300, 40), (50, 1), ()])
def test_distances_that_float32_cannot_tell_apart_are_chosen_as_in_float64(pools, seed):
    # Points on a sphere around the first: float32 knows their distances to 2e-7, they differ by 1e-9 to 1e-7.
    generator = np.random.default_rng(seed)
    around = generator.normal(size=(600, 48))
    around *= (1 + 1e-7 * generator.random((600, 1))) / np.linalg.norm(around, axis=1, keepdims=True)
    data = np.vstack([np.zeros((1, 48)), around]).astype(np.float32)
    expected_indices, expected_distances = slow(data, 0, 80)
    indices, distances = farthest_first(data, 0, 80, pools=pools)
    assert indices.tolist() == expected_indices
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)


@pytest.mark.usefixtures("blocks")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(-3, 3)),
    pools=st.sampled_from([(4, 2), (9, 1), ()]),
)
def test_equal_points_and_equal_distances_go_by_their_index(data, pools):
    indices, distances = farthest_first(data, 0, len(data), pools=pools)
    expected_indices, expected_distances = slow(data, 0, len(data))
    assert indices.tolist() == expected_indices
    np.testing.assert_array_equal(distances, expected_distances)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_a_block_that_is_left_out_has_no_point_nearer_than_it_was_said(noise):
    generator = np.random.default_rng(5)
    directions = generator.normal(size=(12, 48))
    data = (directions[generator.integers(12, size=600)] + noise * generator.normal(size=(600, 48))).astype(np.float32)
    held = Blocks(data, directions.astype(np.float32))
    apart = np.square(data[held.indices, None].astype(np.float64) - data[None, held.indices]).sum(axis=2)
    nearest = np.minimum.reduceat(apart, held.starts[:-1], axis=0)
    centres = np.arange(600)
    for highest in (0.25, 1.0, 2.0, 4.0):
        limits = (highest * np.median(apart, axis=0)[held.starts[:-1]]).astype(np.float32)
        reached = held.reached(centres, limits)
        assert (nearest[~reached] >= np.broadcast_to(limits[:, None], nearest.shape)[~reached]).all()
    # It tells something: of tight groups only the centre's own is left, of points in no groups nearly all are.
    spared = 1 - held.reached(centres, np.full(len(held), np.median(nearest), np.float32)).mean()
    assert spared > 0.4 if noise < 1 else spared >= 0


def test_blocks_hold_every_point_once_around_the_reference_that_is_nearest():
    data = points(300, 6)
    held = Blocks(data, data[:9])
    assert sorted(held.indices) == list(range(300))
    np.testing.assert_array_equal(held.indices[held.where], np.arange(300))
    nearest = np.linalg.norm(data[:, None] - data[None, :9], axis=2).argmin(axis=1)
    assert (nearest[held.indices] == np.unique(nearest)[held.of(np.arange(300))]).all()


def test_data_far_from_the_origin_loses_no_choice():
    data = points(400, 8) + np.float32(1000)
    expected_indices, expected_distances = slow(data, 0, 100)
    indices, distances = farthest_first(data, 0, 100, pools=(64, 16))
    assert indices.tolist() == expected_indices
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)


def test_all_points_can_be_chosen_each_once_and_equal_ones_by_their_index():
    data = np.repeat(np.array([[0.0], [4.0], [16.0]], dtype=np.float32), 3, axis=0)
    indices, distances = farthest_first(data, 0, 9, pools=(4, 2))
    assert indices.tolist() == [0, 6, 3, 1, 2, 4, 5, 7, 8]
    assert distances.tolist() == [0, 16, 4, 0, 0, 0, 0, 0, 0]


def test_the_radius_is_at_most_twice_the_least_possible():
    data = points(14, 2, seed=3)
    between = np.linalg.norm(data[:, None] - data[None], axis=-1)
    for first in range(14):
        chosen, _ = farthest_first(data, first, 3)
        radius = between[:, chosen].min(axis=1).max()
        least = min(between[:, list(trio)].min(axis=1).max() for trio in itertools.combinations(range(14), 3))
        assert least <= radius <= 2 * least


def test_the_first_choice_of_the_paper_lies_in_the_middle_of_the_largest_cluster():
    generator = np.random.default_rng(0)
    large = np.array([0.0, 10.0]) + generator.normal(size=(60, 2)) * 0.3
    small = np.array([10.0, 0.0]) + generator.normal(size=(20, 2)) * 0.3
    data = np.concatenate([small, large]).astype(np.float32)
    np.testing.assert_allclose(largest_cluster(data, 2, seed=0), large.mean(axis=0), atol=0.05)
    chosen = selected({"name": "kcenter", "rows": 2, "normalise": False, "clusters": 2}, data)
    angles = np.degrees(np.arctan2(data[:, 0], data[:, 1]))
    mean = large.mean(axis=0)
    expected = int(np.argmin(np.abs(angles - np.degrees(np.arctan2(mean[0], mean[1])))))
    assert chosen.indices[0] == expected
    assert chosen.indices[1] < 20


def test_clusters_do_not_hang_on_how_many_points_are_summed_at_once(monkeypatch):
    data = points(300, 6)
    labels, centres = k_means(data, 7, seed=2)
    for cluster in range(7):
        np.testing.assert_allclose(centres[cluster], data[labels == cluster].mean(axis=0), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(_clusters, "ROWS_AT_ONCE", 11)
    again_labels, again_centres = k_means(data, 7, seed=2)
    assert again_labels.tolist() == labels.tolist()
    np.testing.assert_allclose(again_centres, centres, rtol=1e-6)


def selected(settings: dict, data: np.ndarray, seed: int = 0):
    rows = [Example(str(number), text=f"row {number}") for number in range(len(data))]
    return validate(Selector, settings).select(rows, Context(seed=seed, embeddings=data))


def test_the_same_seed_chooses_alike_and_another_one_begins_elsewhere():
    data = points(200, 8)
    settings = {"name": "kcenter", "share": 0.1, "start": "random"}
    assert selected(settings, data, 1) == selected(settings, data, 1)
    assert selected(settings, data, 1).indices[0] != selected(settings, data, 2).indices[0]
    assert len(selected(settings, data).indices) == 20
    assert selected({**settings, "start": "first"}, data).indices[0] == 0


def test_vectors_of_one_direction_are_one_point_when_normalised():
    data = np.array([[1.0, 0.0], [50.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert selected({"name": "kcenter", "rows": 2, "start": "first"}, data).indices == (0, 2)
    assert selected({"name": "kcenter", "rows": 2, "start": "first", "normalise": False}, data).indices == (0, 1)


@pytest.mark.parametrize("embeddings", [None, np.zeros((4, 2)), np.zeros(3), np.full((3, 2), np.nan)])
def test_embeddings_that_do_not_fit_are_refused(embeddings):
    rows = [Example(str(number), text="a") for number in range(3)]
    with pytest.raises(DataError) as caught:
        validate(Selector, "kcenter").select(rows, Context(embeddings=embeddings))
    assert caught.value.code == "E-SELECT-EMBEDDINGS"


def test_a_random_choice_has_no_favourites():
    rows = [Example(str(number), text="a") for number in range(20)]
    draws = [validate(Selector, {"name": "random", "rows": 5}).select(rows, Context(seed=seed)) for seed in range(800)]
    assert all(len(set(drawn.indices)) == 5 for drawn in draws)
    counts = np.bincount([index for drawn in draws for index in drawn.indices], minlength=20)
    # Each count is hypergeometric with mean 200 and standard deviation 12.2.
    assert np.abs(counts - 200).max() < 5 * 12.3


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(DataError) as caught:
        validate(Selector, "random").select([], Context())
    assert caught.value.code == "E-SELECT-EMPTY"
