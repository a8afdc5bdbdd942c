"""Oracles: scipy's BCa, slow loops over replicates and clusters, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from keeptune.statistics import bootstrap
from keeptune.statistics.bootstrap import bootstrap_bounds
from keeptune.statistics.clusters import Sums, cluster_sums


def test_no_difference_gives_exactly_zero():
    bounds = bootstrap_bounds([cluster_sums(np.zeros(50))], resamples=200)
    assert (bounds.estimate[0], bounds.low[0], bounds.high[0]) == (0.0, 0.0, 0.0)


def test_equal_differences_give_an_interval_without_width():
    bounds = bootstrap_bounds([cluster_sums(np.full(40, -0.25))], resamples=200)
    assert (bounds.low[0], bounds.high[0]) == (-0.25, -0.25)


def test_bca_equals_scipy_at_the_expanded_level():
    sample = np.random.default_rng(3).gamma(2.0, size=60) - 1.5
    ours = bootstrap_bounds([cluster_sums(sample)], resamples=20_000, seed=1)
    reach = stats.t.ppf(0.95, 59) * np.sqrt(60 / 59)
    theirs = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=20_000,
        method="BCa",
        confidence_level=1 - 2 * stats.norm.sf(reach),
        rng=np.random.default_rng(2),
    ).confidence_interval
    error = sample.std(ddof=1) / np.sqrt(60)
    # Two independent sets of 20,000 replicates place a 4% quantile within about 0.02 standard errors of each other.
    assert abs(ours.bca[0][0] - theirs.low) < 0.06 * error
    assert abs(ours.bca[1][0] - theirs.high) < 0.06 * error


def test_the_t_interval_of_independent_items_is_the_textbook_one():
    sample = np.random.default_rng(5).normal(size=35)
    bounds = bootstrap_bounds([cluster_sums(sample)], resamples=200)
    low, high = stats.t.interval(0.90, 34, loc=sample.mean(), scale=stats.sem(sample))
    assert bounds.student_t[0][0] == pytest.approx(low)
    assert bounds.student_t[1][0] == pytest.approx(high)


def test_replicates_equal_a_slow_loop_over_drawn_clusters():
    generator = np.random.default_rng(8)
    top, bottom, size = generator.normal(size=12), generator.uniform(1, 3, size=12), 150
    sums = cluster_sums(top, bottom)
    deviation, studentised = bootstrap._replicates([sums], size, 4, np.sqrt(sums.variance()))
    counts = next(bootstrap._counts(sums.multiplicity, size, bootstrap_generator(4)))
    ratio = top.sum() / bottom.sum()
    for replicate in range(0, size, 7):
        drawn = np.repeat(np.arange(12), counts[replicate].astype(int))
        tops, bottoms = sums.numerators[0][drawn], sums.denominators[0][drawn]
        again = tops.sum() / bottoms.sum()
        error = np.sqrt(12 / 11 * ((tops - again * bottoms) ** 2).sum()) / bottoms.sum()
        assert deviation[0, replicate] == pytest.approx(again - ratio)
        assert studentised[0, replicate] == pytest.approx((again - ratio) / error)


def bootstrap_generator(seed):
    import zlib

    return np.random.default_rng([seed, zlib.crc32(b"paired bootstrap")])


def test_the_acceleration_of_a_ratio_equals_a_slow_jackknife():
    generator = np.random.default_rng(9)
    top, bottom = generator.gamma(1.0, size=25), generator.uniform(1, 3, size=25)
    without = [np.delete(top, g).sum() / np.delete(bottom, g).sum() for g in range(25)]
    influence = np.mean(without) - np.array(without)
    slow = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    assert bootstrap._acceleration([cluster_sums(top, bottom)])[0] == pytest.approx(slow)


def test_items_of_a_cluster_count_once():
    generator = np.random.default_rng(11)
    sample = generator.normal(size=40)
    once = bootstrap_bounds([cluster_sums(sample)], resamples=500)
    repeated = bootstrap_bounds(
        [cluster_sums(np.repeat(sample, 9), clusters=np.repeat(np.arange(40), 9))], resamples=500
    )
    assert repeated.low[0] == pytest.approx(once.low[0])
    assert repeated.high[0] == pytest.approx(once.high[0])
    assert repeated.effective_clusters[0] == pytest.approx(40)


def test_counting_equal_clusters_together_changes_nothing_but_the_draws():
    flips = np.repeat([-1.0, 0.0, 1.0], [30, 350, 20])
    together = cluster_sums(flips)
    apart = Sums(flips[None, :], np.ones((1, 400)), np.ones(400, dtype=np.int64))
    assert len(together.multiplicity) == 3
    one, other = (bootstrap_bounds([sums], resamples=20_000) for sums in (together, apart))
    assert one.standard_error[0] == pytest.approx(other.standard_error[0])
    assert bootstrap._acceleration([together])[0] == pytest.approx(bootstrap._acceleration([apart])[0])
    # The replicates lie on a lattice of 1 / 400, and chance may move an end by one step of it.
    assert abs(one.low[0] - other.low[0]) < 1.001 / 400
    assert abs(one.high[0] - other.high[0]) < 1.001 / 400


def test_rounding_does_not_break_ties_with_the_estimate():
    flips = np.repeat([-1.0, 0.0, 1.0], [3, 352, 2])  # a mean of -1 / 357 that no float holds
    sums = cluster_sums(flips)
    deviation, _ = bootstrap._replicates([sums], 5_000, 0, np.sqrt(sums.variance()))
    counts = next(bootstrap._counts(sums.multiplicity, 5_000, bootstrap_generator(0)))
    net = counts[:, 2] - counts[:, 0]
    tied = np.abs(deviation[0]) <= bootstrap.TIE * np.sqrt(sums.variance()[0])
    assert (tied == (net == -1)).all()


def test_every_replicate_draws_as_many_clusters_as_there_are():
    for multiplicity in (np.array([300, 5, 7]), np.ones(50, dtype=np.int64)):
        chunks = list(bootstrap._counts(multiplicity, 500, np.random.default_rng(0)))
        drawn = np.concatenate(chunks)
        assert drawn.shape == (500, len(multiplicity))
        assert (drawn.sum(axis=1) == multiplicity.sum()).all()
        share = multiplicity / multiplicity.sum()
        spread = np.sqrt(share * (1 - share) * multiplicity.sum() / 500)
        assert (np.abs(drawn.mean(axis=0) - multiplicity) < 5 * spread).all()


def test_memory_chunks_do_not_change_the_distribution(monkeypatch):
    sums = cluster_sums(np.random.default_rng(1).normal(size=80))
    whole = bootstrap_bounds([sums], resamples=5_000)
    monkeypatch.setattr(bootstrap, "CELLS", 80 * 100)
    assert bootstrap_bounds([sums], resamples=5_000).low[0] == pytest.approx(whole.low[0])


def test_a_pool_of_tasks_has_the_stratified_standard_error():
    generator = np.random.default_rng(13)
    samples = [generator.normal(size=n) for n in (60, 200, 90)]
    bounds = bootstrap_bounds([cluster_sums(sample) for sample in samples], resamples=4_000)
    expected = np.sqrt(sum(stats.sem(sample) ** 2 for sample in samples)) / 3
    assert bounds.estimate[0] == pytest.approx(np.mean([sample.mean() for sample in samples]))
    assert bounds.standard_error[0] == pytest.approx(expected)
    assert bounds.low[0] == pytest.approx(bounds.estimate[0] - 1.645 * expected, abs=0.15 * expected)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    sums = cluster_sums(np.random.default_rng(1).normal(size=80))
    first, again, other = (bootstrap_bounds([sums], resamples=300, seed=seed) for seed in (5, 5, 6))
    assert first.low[0] == again.low[0]
    assert first.low[0] != other.low[0]


def test_the_order_of_items_does_not_matter():
    sample = np.random.default_rng(1).normal(size=80)
    one, other = (bootstrap_bounds([cluster_sums(each)], resamples=300) for each in (sample, sample[::-1]))
    assert one.low[0] == other.low[0]


def test_data_sets_side_by_side_give_what_each_gives_alone():
    tops = np.random.default_rng(2).normal(size=(3, 45))
    ones, single = np.ones((3, 45)), np.ones(45, dtype=np.int64)
    both = bootstrap_bounds([Sums(tops, ones, single)], resamples=400)
    for row in range(3):
        alone = bootstrap_bounds([Sums(tops[row : row + 1], ones[:1], single)], resamples=400)
        assert both.low[row] == pytest.approx(alone.low[0])
        assert both.high[row] == pytest.approx(alone.high[0])


def test_the_reported_ends_are_outside_all_three_intervals():
    bounds = bootstrap_bounds([cluster_sums(np.random.default_rng(4).gamma(1.0, size=40))], resamples=2_000)
    for low, high in (bounds.bca, bounds.studentised, bounds.student_t):
        assert bounds.low[0] < low[0]
        assert high[0] < bounds.high[0]


@pytest.mark.parametrize(
    ("top", "bottom", "clusters"),
    [([], None, None), ([1.0, np.nan], None, None), ([1.0, 2.0], [1.0, 0.0], None), ([1.0, 2.0], None, ["a"])],
)
def test_sums_of_broken_items_are_refused(top, bottom, clusters):
    with pytest.raises(ValueError, match=r"item|finite"):
        cluster_sums(top, bottom, clusters)


def test_kish_counts_equal_clusters_fully_and_a_dominant_one_hardly():
    assert cluster_sums(np.arange(6.0), clusters=[1, 1, 2, 2, 3, 3]).effective_clusters()[0] == pytest.approx(3)
    lopsided = cluster_sums(np.arange(100.0), clusters=[0] * 98 + [1, 2])
    assert lopsided.effective_clusters()[0] < 1.1
