"""McNemar, Holm, admission, the certificate's verdicts, noise floor, matched targets: closed forms and enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from keeptune.statistics.admission import admit, guess_p_value
from keeptune.statistics.interpolate import common_target, retention_at, retention_band
from keeptune.statistics.mcnemar import holm, mcnemar_change, mcnemar_loss
from keeptune.statistics.noise import noise_floor, noise_floor_ratio
from keeptune.statistics.noninferiority import compare_binary
from keeptune.statistics.verdict import retention_verdict, target_verdict

PASSED = compare_binary(np.ones(2_000), np.ones(2_000), 0.03)
FAILED, OPEN = replace(PASSED, verdict="FAIL"), replace(PASSED, verdict="UNDECIDED")


def test_mcnemar_equals_the_sum_over_all_outcomes():
    for gains, losses in ((1, 7), (3, 3), (0, 5), (12, 30)):
        flips = gains + losses
        slow = sum(binom.pmf(x, flips, 0.5) * (0.5 if x == losses else 1) for x in range(losses, flips + 1))
        assert mcnemar_loss(gains, losses) == pytest.approx(slow)
        exact = binomtest(gains, flips).pvalue
        assert mcnemar_change(gains, losses) <= exact


def test_mcnemar_of_the_airway_example_is_the_published_one():
    assert round(mcnemar_change(1, 7), 3) == 0.039  # Fagerland et al. 2013, table 2
    assert mcnemar_change(4, 4) == 1.0
    assert mcnemar_change(0, 0) == 1.0
    assert mcnemar_loss(0, 0) == 0.5


def test_holm_equals_its_definition_and_keeps_order():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("right", "chance", "margin", "admitted", "says"),
    [
        (800, 0.25, 0.03, True, "p < 0.01"),
        (400, 0.25, 0.03, True, ""),  # exactly five margins
        (399, 0.25, 0.03, False, "5 margins"),
        (260, 0.25, 0.001, False, "guessing"),
        (1_000, 0.25, 0.03, False, "ceiling"),
    ],
)
def test_admission_follows_its_three_conditions(right, chance, margin, admitted, says):
    decision = admit(np.arange(1_000) < right, chance, margin)
    assert decision.admitted is admitted
    assert says in decision.reason
    assert f"base {right / 10:.1f}%" in decision.reason


def test_a_guess_with_mixed_options_equals_enumeration():
    chance = np.array([0.5, 0.25, 0.25, 0.1])
    for right in range(5):
        slow = sum(
            np.prod([c if hit else 1 - c for hit, c in zip(hits, chance, strict=True)])
            for hits in product((0, 1), repeat=4)
            if sum(hits) >= right
        )
        assert guess_p_value(right, chance) == pytest.approx(slow)


def test_a_guess_with_one_chance_equals_the_binomial_test():
    expected = binomtest(300, 1_000, 0.25, alternative="greater").pvalue
    assert guess_p_value(300, np.full(1_000, 0.25)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pooled", "tasks", "corpora", "leak", "verdict"),
    [
        (PASSED, [PASSED], [PASSED], PASSED, "PASS"),
        (PASSED, [PASSED, FAILED], [PASSED], PASSED, "FAIL"),
        (PASSED, [PASSED], [PASSED], FAILED, "FAIL"),
        (FAILED, [OPEN], [], None, "FAIL"),
        (PASSED, [PASSED, OPEN], [PASSED], PASSED, "UNDECIDED"),
        (None, [], [PASSED], None, "PASS"),
        (None, [], [], PASSED, "UNDECIDED"),
        (None, [], [], FAILED, "FAIL"),
        (None, [], [], None, "UNDECIDED"),
    ],
)
def test_the_retention_verdict_needs_every_part(pooled, tasks, corpora, leak, verdict):
    assert retention_verdict(pooled, tasks, corpora, leak) == verdict


def test_the_same_model_passes_whatever_n_is():
    assert retention_verdict(None, [OPEN], [], None, same_model=True) == "PASS"


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower"),
    [(0.01, 0.2, "GAINED", "LOST"), (-0.2, -0.01, "LOST", "GAINED"), (-0.1, 0.1, "UNDECIDED", "UNDECIDED")],
)
def test_the_target_verdict_reads_the_sign(low, high, higher, lower):
    target = replace(PASSED, low=low, high=high)
    assert target_verdict(target) == higher
    assert target_verdict(replace(target, higher_is_better=False)) == lower


def test_the_noise_floor_is_the_largest_disagreement():
    scores = np.array([[1, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]], dtype=float)
    floor = noise_floor(scores)
    assert (floor.floor, floor.discordance, floor.scorings) == (0.25, 0.75, 3)
    assert noise_floor(scores[[0, 0]]).floor == 0.0
    assert noise_floor_ratio([[10.0, 10.0], [11.0, 10.0]]).floor == pytest.approx(0.05)
    with pytest.raises(ValueError, match="scorings"):
        noise_floor(scores[:1])


def test_retention_is_read_on_the_straight_line_where_the_target_is_first_reached():
    assert retention_at([0.2, 0.6, 0.8], [0.0, -0.02, -0.06], 0.7) == pytest.approx(-0.04)
    assert retention_at([0.2, 0.6, 0.5, 0.9], [0.0, -0.02, -0.5, -0.9], 0.6) == -0.02
    assert retention_at([0.7, 0.8], [0.0, -0.1], 0.5) == 0.0
    assert retention_at([0.2, 0.6], [0.0, -0.1], 0.61) is None
    assert common_target([[0.2, 0.9, 0.7], [0.3, 0.8]]) == 0.8


def test_the_band_covers_the_reading_and_vanishes_beyond_reach():
    generator = np.random.default_rng(0)
    target = (generator.random((4, 800)) < np.array([[0.2], [0.5], [0.7], [0.8]])).astype(float)
    kept = (generator.random((4, 1_000)) < np.array([[0.6], [0.59], [0.57], [0.5]])).astype(float)
    band = retention_band(target, kept, 0.6, resamples=300)
    assert band.reached == 1.0
    assert band.low < band.retention < band.high
    # The reading averages two checkpoints' items, so its spread is at most that of one binomial score.
    assert band.high - band.low < 2 * 1.645 * np.sqrt(0.25 / 1_000) * 1.3
    assert retention_band(target, kept, 0.95, resamples=50).low is None
