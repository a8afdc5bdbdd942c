"""Frontiers against a slow loop, a Monte Carlo area, closed forms and a simulation of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from keeptune.statistics.frontiers import Grid, Part, dominated


def part(cells_CSN, base_N, clusters=None) -> Part:
    cells = np.asarray(cells_CSN, dtype=float)
    groups = np.arange(cells.shape[2]) if clusters is None else np.asarray(clusters)
    return Part(cells, np.asarray(base_N, dtype=float), groups)


def made(generator, rates=(0.3, 0.6, 0.9), seeds=2, items=200) -> Grid:
    def flips(share, size):
        return (generator.random(size) < share).astype(float)

    cells = 2 * len(rates)
    target = np.stack([flips(rate, (seeds, items)) for rate in (*rates, *rates)])
    harm = [0.05, 0.1, 0.2, 0.1, 0.3, 0.6]
    tasks = [part(np.stack([flips(0.9 - h / 2, (seeds, items)) for h in harm]), flips(0.9, items)) for _ in range(2)]
    leak = part(np.stack([flips(h, (seeds, items)) for h in harm]), np.zeros(items))
    places = {"gentle": range(0, 3), "harsh": range(3, cells)}
    return Grid(places, part(target, flips(0.1, items)), tasks, leak, resamples=400)


@pytest.fixture
def grid():
    return made(np.random.default_rng(0))


def test_figures_are_those_of_a_loop_over_cells(grid):
    for place in range(6):
        target = np.mean(grid.target.cells_CSN[place])
        lost = np.mean([np.mean(one.base_N) - np.mean(one.cells_CSN[place]) for one in grid.general])
        leak = np.mean(grid.leak.cells_CSN[place]) - np.mean(grid.leak.base_N)
        found = grid.cell(place)
        assert found["target"].value == pytest.approx(target)
        assert found["forgotten"].value == pytest.approx(max(lost, leak))
        assert found["forgotten"].low <= found["forgotten"].value <= found["forgotten"].high
    level = grid.common_target()
    targets = [grid.cell(place)["target"].value for place in range(6)]
    assert level == min(max(targets[:3]), max(targets[3:]))
    assert grid.matched("gentle", level).value > grid.matched("harsh", level).value
    assert grid.matched("gentle", 0.0).value == 1.0  # the base is there already, and has forgotten nothing
    assert grid.matched("gentle", 1.1).value is None


def test_where_a_draw_leaves_the_base_nothing_to_gain_it_has_no_area():
    """Of ten items the base misses one: a third of the replicates do not draw it. One that misses none has no area."""
    hits = np.r_[np.ones(9), 0.0]
    own = part(np.ones((1, 1, 10)), hits)
    harm = part(np.ones((1, 1, 10)), np.ones(10))
    found = Grid({"one": [0]}, own, [harm], None).hypervolume("one")
    assert found.value == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))
    perfect = Grid({"one": [0]}, part(np.ones((1, 1, 10)), np.ones(10)), [harm], None)
    assert perfect.hypervolume("one").value is None


def test_the_area_is_that_of_random_points(grid):
    generator = np.random.default_rng(1)
    for _ in range(5):
        gains, kept = generator.uniform(-0.2, 1, 6), generator.uniform(0, 1, 6)
        x, y = generator.random(200_000), generator.random(200_000)
        inside = np.any([(x < g) & (y < k) for g, k in zip(gains, kept, strict=True)], axis=0)
        assert dominated(gains, kept) == pytest.approx(inside.mean(), abs=0.01)
    assert 0 < grid.hypervolume("harsh").value < grid.hypervolume("gentle").value < 1


def test_the_rank_correlation_is_scipys(grid):
    predictor = [0.1, 0.3, 0.2, 0.5, 0.4, 0.9]
    forgotten = [grid.cell(place)["forgotten"].value for place in range(6)]
    assert grid.rank_correlation(predictor).value == pytest.approx(spearmanr(predictor, forgotten).statistic)
    assert grid.rank_correlation([1.0] * 6).value is None


def test_items_of_one_cluster_are_drawn_together():
    """Twenty clusters of ten equal items say as much as twenty items: the interval is as wide."""
    generator = np.random.default_rng(2)
    base = np.zeros(200)
    scores = np.repeat((generator.random(20) < 0.5).astype(float), 10)
    wide, narrow = (
        Grid({"m": [0]}, part(scores[None, None], base, groups), [part(scores[None, None], base)], None)
        for groups in (np.repeat(np.arange(20), 10), np.arange(200))
    )
    widths = [one.cell(0)["target"].high - one.cell(0)["target"].low for one in (wide, narrow)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.25)


def test_intervals_of_what_was_forgotten_cover_as_often_as_they_say():
    generator, hits, tries = np.random.default_rng(3), 0, 200
    for _ in range(tries):
        base, own = (generator.random(150) < 0.9).astype(float), (generator.random((1, 1, 150)) < 0.7).astype(float)
        found = Grid({"m": [0]}, part(own, base), [part(own, base)], None, resamples=200).cell(0)["forgotten"]
        hits += found.low <= 0.2 <= found.high
    assert 0.84 < hits / tries < 0.96  # 0.90 with a standard error of 0.021


def test_without_anything_to_forget_there_is_no_frontier():
    with pytest.raises(ValueError, match="nothing can be forgotten"):
        Grid({"m": [0]}, part(np.ones((1, 1, 4)), np.ones(4)), [], None)


def test_three_seeds_that_differ_are_covered_at_least_as_often_as_the_interval_says():
    """Weights that are only drawn with replacement cover in 80 of 100."""
    generator, hits, tries = np.random.default_rng(4), 0, 150
    for _ in range(tries):
        shares = generator.normal(0.5, 0.12, size=(1, 3, 1))
        own, base = (generator.random((1, 3, 100)) < shares).astype(float), np.ones(100)
        found = Grid({"m": [0]}, part(own, base), [part(own, base)], None, resamples=200).cell(0)["target"]
        hits += found.low <= 0.5 <= found.high
    assert hits / tries > 0.88


def test_a_share_stays_a_share_where_one_seed_of_three_differs_from_the_others():
    leak = np.stack([np.zeros(50), np.zeros(50), np.ones(50)])[None]
    quiet = part(np.ones((1, 3, 50)), np.ones(50))
    found = Grid({"m": [0]}, quiet, [], part(leak, np.zeros(50)), resamples=200).cell(0)["forgotten"]
    assert (found.low, found.value, found.high) == (0.0, pytest.approx(1 / 3), 1.0)
