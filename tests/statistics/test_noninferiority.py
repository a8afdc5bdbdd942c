"""Verdicts: the rule itself, each kind of score, and the places where a bootstrap would claim too much."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import norm

from keeptune.core.errors import DataError
from keeptune.statistics.noninferiority import (
    PairedTask,
    compare_binary,
    compare_continuous,
    compare_pooled,
    compare_ratio,
    decide,
)
from keeptune.statistics.paired_score import score_interval


def flipped(n, gains, losses, right=0.6):
    """Base and adapted answers with exactly these flips."""
    base = (np.arange(n) < right * n).astype(float)
    adapted = base.copy()
    adapted[:losses] = 0.0
    adapted[n - gains :] = 1.0
    return base, adapted


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower"),
    [
        (-0.005, 0.010, "PASS", "UNDECIDED"),
        (-0.005, 0.009, "PASS", "PASS"),
        (-0.020, -0.011, "FAIL", "PASS"),
        (-0.010, 0.000, "UNDECIDED", "PASS"),
        (0.011, 0.020, "PASS", "FAIL"),
    ],
)
def test_the_rule_reads_the_end_that_matters(low, high, higher, lower):
    assert decide(low, high, 0.01) == higher
    assert decide(low, high, 0.01, higher_is_better=False) == lower


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="margin"):
        decide(-0.1, 0.1, -0.01)


def test_binary_counts_flips_and_uses_the_score_interval():
    result = compare_binary(*flipped(1_000, gains=20, losses=35), margin=0.03)
    low, high = score_interval(1_000, 20, 35)
    assert (result.flips_wrong_to_right, result.flips_right_to_wrong, result.discordance) == (20, 35, 0.055)
    assert result.delta == pytest.approx(-0.015)
    assert (result.low, result.high) == (float(low), float(high))
    assert (result.verdict, result.n, result.effective_clusters) == ("PASS", 1_000, 1_000)


def test_a_large_loss_fails_and_a_small_sample_is_undecided():
    assert compare_binary(*flipped(1_000, 10, 90), margin=0.03).verdict == "FAIL"
    assert compare_binary(*flipped(50, 1, 2), margin=0.03).verdict == "UNDECIDED"


def test_equal_answers_have_delta_zero_no_flips_and_still_a_width():
    base, _ = flipped(1_500, 0, 0)
    result = compare_binary(base, base, margin=0.03)
    assert (result.delta, result.flips_right_to_wrong, result.flips_wrong_to_right) == (0.0, 0, 0)
    assert result.unchanged
    assert result.verdict == "PASS"
    assert 0.002 < result.high == -result.low < 0.003
    assert compare_binary(base[:60], base[:60], margin=0.03).verdict == "UNDECIDED"


def test_clusters_of_one_item_are_no_clusters():
    base, adapted = flipped(300, 10, 20)
    assert compare_binary(base, adapted, 0.03, clusters=np.arange(300)) == compare_binary(base, adapted, 0.03)


def test_items_that_flip_together_widen_the_interval_to_that_of_the_clusters():
    base, adapted = flipped(100, 12, 14)
    alone = compare_binary(base, adapted, 0.05)
    together = compare_binary(np.repeat(base, 5), np.repeat(adapted, 5), 0.05, clusters=np.repeat(np.arange(100), 5))
    assert together.delta == pytest.approx(alone.delta)
    assert together.low <= alone.low + 0.1 * (alone.delta - alone.low)
    assert together.effective_clusters == pytest.approx(100)


def test_clusters_without_a_flip_count_as_items():
    base = np.ones(500)
    base[::3] = 0
    result = compare_binary(base, base, 0.03, clusters=np.repeat(np.arange(100), 5))
    assert result.low == pytest.approx(float(score_interval(100, 0, 0)[0]))
    assert result.verdict == "UNDECIDED"


def test_a_rate_that_should_stay_low_fails_when_it_rises():
    base, adapted = np.zeros(400), np.zeros(400)
    adapted[:60] = 1
    assert compare_binary(base, adapted, 0.02, higher_is_better=False).verdict == "FAIL"
    assert compare_binary(base, base, 0.02, higher_is_better=False).verdict == "PASS"


def test_continuous_scores_follow_the_normal_interval_at_large_n():
    generator = np.random.default_rng(0)
    base = generator.uniform(size=2_000)
    adapted = base + generator.normal(-0.002, 0.1, size=2_000)
    result = compare_continuous(base, adapted, None, 0.01)
    error = (adapted - base).std(ddof=1) / np.sqrt(2_000)
    assert result.low == pytest.approx(result.delta - norm.ppf(0.95) * error, abs=0.1 * error)
    assert result.discordance is None
    assert result.verdict == "PASS"


def test_continuous_scores_that_did_not_change_are_exactly_zero():
    scores = np.random.default_rng(0).uniform(size=10)
    result = compare_continuous(scores, scores, None, 0.01)
    assert (result.delta, result.low, result.high, result.verdict) == (0.0, 0.0, 0.0, "PASS")
    assert result.unchanged


def test_right_or_wrong_scores_never_get_the_bootstrap_of_no_flips():
    base, _ = flipped(40, 0, 0)
    assert compare_continuous(base, base, None, 0.03) == compare_binary(base, base, 0.03)


def test_few_clusters_leave_it_undecided_and_say_so():
    generator = np.random.default_rng(0)
    base = generator.uniform(size=200)
    adapted = base + 0.001 * generator.normal(size=200)
    result = compare_continuous(base, adapted, np.repeat(np.arange(10), 20), 0.05)
    assert result.low > -0.05
    assert result.verdict == "UNDECIDED"
    assert "30 are needed" in result.note


def test_bits_per_byte_is_a_ratio_of_totals_and_lower_is_better():
    generator = np.random.default_rng(1)
    size = generator.integers(500, 3_000, size=150).astype(float)
    base = size * generator.normal(1.5, 0.2, size=150)
    harmed = base * (1.05 + 0.02 * generator.normal(size=150))
    result = compare_ratio(base, harmed, size, None, 0.01)
    assert result.base == pytest.approx(base.sum() / size.sum())
    assert result.delta == pytest.approx(harmed.sum() / base.sum() - 1)
    assert result.verdict == "FAIL"
    assert not result.higher_is_better
    assert compare_ratio(base, 0.9 * harmed, size, None, 0.01).verdict == "PASS"
    same = compare_ratio(base, base, size, None, 0.01)
    assert (same.delta, same.low, same.high, same.verdict) == (0.0, 0.0, 0.0, "PASS")


def test_windows_of_a_document_are_one_unit():
    generator = np.random.default_rng(2)
    base = generator.uniform(900, 1_100, size=60)
    adapted = base * (1 + 0.01 * generator.normal(size=60))
    size = np.full(60, 700.0)
    whole = compare_ratio(base, adapted, size, None, 0.01)
    split = compare_ratio(
        *(np.repeat(each / 4, 4) for each in (base, adapted, size)), np.repeat(np.arange(60), 4), 0.01
    )
    assert split.low == pytest.approx(whole.low)
    assert (split.n, whole.n) == (240, 60)


def test_the_pool_is_the_equal_weight_mean_of_tasks():
    tasks = [PairedTask(*flipped(n, gains, losses)) for n, gains, losses in ((1_500, 50, 60), (3_000, 80, 80))]
    result = compare_pooled(tasks, 0.02)
    assert result.delta == pytest.approx(-10 / 1_500 / 2)
    assert (result.flips_right_to_wrong, result.flips_wrong_to_right, result.n) == (140, 130, 4_500)
    error = np.sqrt(110 / 1_500**2 + 160 / 3_000**2) / 2
    assert result.delta - result.low == pytest.approx(norm.ppf(0.95) * error, rel=0.15)
    assert result.verdict == "PASS"


def test_a_pool_of_few_items_without_a_flip_does_not_pass():
    base, _ = flipped(60, 0, 0)
    result = compare_pooled([PairedTask(base, base)] * 4, 0.01)
    assert (result.delta, result.unchanged) == (0.0, True)
    assert result.verdict == "UNDECIDED"


def test_a_pool_may_mix_kinds_of_score():
    generator = np.random.default_rng(3)
    rouge = generator.uniform(size=400)
    tasks = [PairedTask(*flipped(800, 20, 24)), PairedTask(rouge, rouge + 0.05 * generator.normal(size=400))]
    result = compare_pooled(tasks, 0.02)
    assert result.flips_right_to_wrong is None
    assert result.low < result.delta < result.high
    assert result.verdict == "PASS"


@pytest.mark.parametrize("adapted", [[1.0], [1.0, np.nan]])
def test_items_that_do_not_pair_are_refused(adapted):
    with pytest.raises(ValueError, match=r"same items|finite"):
        compare_continuous([1.0, 0.5], adapted, None, 0.01)


def test_a_score_between_zero_and_one_is_no_binary_item():
    with pytest.raises(ValueError, match="0 or 1"):
        compare_binary([0.0, 0.5], [1.0, 1.0], 0.01)


def test_a_corpus_of_one_document_is_an_error_of_the_data_unless_nothing_changed():
    one = np.full(8, 100.0), np.full(8, 50.0), np.zeros(8)
    with pytest.raises(DataError, match="one document") as raised:
        compare_ratio(one[0], one[0] + 1, one[1], one[2], 0.01)
    assert raised.value.code == "E-DATA-ONE-CLUSTER"
    assert compare_ratio(one[0], one[0], one[1], one[2], 0.01).verdict == "PASS"


def test_two_documents_give_a_finite_interval_and_no_verdict():
    result = compare_ratio([100.0, 90.0], [101.0, 90.5], [50.0, 50.0], None, 0.5)
    assert np.isfinite([result.low, result.high]).all()
    assert result.verdict == "UNDECIDED"


def test_a_comparison_is_plain_json():
    base, adapted = flipped(300, 10, 20)
    tasks = [PairedTask(base, adapted), PairedTask(base, adapted, np.repeat(np.arange(60), 5))]
    for result in (
        compare_binary(base, adapted, 0.03, np.repeat(np.arange(60), 5)),
        compare_continuous(base + 0.5, adapted, None, 0.03),
        compare_ratio(base + 1, adapted + 1, base + 2, None, 0.01),
        compare_pooled(tasks, 0.01),
    ):
        assert json.loads(json.dumps(asdict(result), allow_nan=False)) == asdict(result)
