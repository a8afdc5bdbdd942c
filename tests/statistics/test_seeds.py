"""Seeds then items: against a slow loop, against Student's t where items add nothing, and the committed simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.seed_calibration import CASES, LIMIT, RESULTS
from keeptune.statistics.bootstrap import replicate_deviations
from keeptune.statistics.noninferiority import compare_continuous, compare_ratio
from keeptune.statistics.seeds import compare_over_seeds, crossed_sums, seed_interval


def changes(seeds=3, n=80, seed=0):
    generator = np.random.default_rng(seed)
    clusters = [f"c{i // 2}" for i in range(n)]
    return [(generator.normal(-0.01, 0.1, n), generator.uniform(0.5, 2, n), clusters) for _ in range(seeds)]


def test_replicates_draw_the_same_clusters_for_every_seed():
    rows = changes()
    twice = crossed_sums([rows[0], rows[1], rows[0]])
    deviation = replicate_deviations([twice], 200)
    # Products of a matrix round the last bit of a row by its place in it, on some processors.
    np.testing.assert_allclose(deviation[0], deviation[2], rtol=0, atol=1e-15)
    assert not np.allclose(deviation[0], deviation[1])


def test_the_spread_of_the_replicates_is_that_of_a_slow_loop():
    rows = changes(seeds=1)
    top, bottom, labels = rows[0]
    kinds, generator = sorted(set(labels)), np.random.default_rng(5)
    slow = []
    for _ in range(4000):
        drawn = generator.choice(kinds, len(kinds))
        at = np.concatenate([[i for i, label in enumerate(labels) if label == kind] for kind in drawn])
        slow.append(top[at].sum() / bottom[at].sum() - top.sum() / bottom.sum())
    fast = replicate_deviations([crossed_sums(rows)], 4000)[0]
    assert fast.std() == pytest.approx(np.std(slow), rel=0.06)
    assert np.quantile(fast, 0.05) == pytest.approx(np.quantile(slow, 0.05), rel=0.1)


@pytest.mark.parametrize("deltas", [[0.0, 0.02, 0.05], [0.1, -0.1, 0.3, 0.2, 0.0]])
def test_without_item_error_the_interval_is_student_s_or_wider(deltas):
    low, high = seed_interval(deltas, deltas, deltas, np.zeros((len(deltas), 2000)))
    student = stats.t.interval(0.9, len(deltas) - 1, np.mean(deltas), stats.sem(deltas))
    assert low <= student[0] + 1e-12
    assert high >= student[1] - 1e-12
    assert high - low < 1.6 * (student[1] - student[0])


def test_equal_seeds_leave_the_interval_of_one_of_them():
    rows = changes()
    part = compare_continuous(np.zeros(80), rows[0][0], rows[0][2], 0.03)
    whole = compare_over_seeds([part] * 3, [crossed_sums([(rows[0][0], None, rows[0][2])] * 3)])
    assert whole.delta == pytest.approx(part.delta)
    assert (whole.low, whole.high) == (pytest.approx(part.low), pytest.approx(part.high))


def test_seeds_that_differ_widen_it_and_a_broken_seed_fails_it():
    generator = np.random.default_rng(1)
    base = generator.uniform(1, 2, 100)
    adapted = [base * (1 + drop + generator.normal(0, 0.001, 100)) for drop in (0.001, 0.002, 0.015)]
    parts = [compare_ratio(base, one, np.ones(100), None, 0.01) for one in adapted]
    labels = [str(i) for i in range(100)]
    sums = crossed_sums([(one - base, base, labels) for one in adapted])
    whole = compare_over_seeds(parts, [sums])
    assert [part.verdict for part in parts] == ["PASS", "PASS", "FAIL"]
    assert whole.verdict == "UNDECIDED"
    assert whole.high > 0.01 > whole.low
    broken = parts[0].__class__(**{**vars(parts[0]), "low": float("nan"), "high": float("nan"), "verdict": "FAIL"})
    assert compare_over_seeds([parts[0], broken, parts[1]], [sums]).verdict == "FAIL"
    with pytest.raises(ValueError, match="3 seeds"):
        compare_over_seeds(parts[:2], [sums])


def test_clusters_that_one_seed_did_not_measure_weigh_nothing_in_it():
    sums = crossed_sums([([1.0, 3.0], None, ["a", "b"]), ([5.0], None, ["a"]), ([2.0, 4.0], None, ["b", "c"])])
    assert sums.ratio() == pytest.approx([2.0, 5.0, 3.0])


def test_the_committed_simulation_covers_these_cases_and_holds():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert [row["case"] for row in report["cases"]] == [case.name for case in CASES]
    assert all(row["draws"] >= 4_000 and row["false_pass_upper_99"] <= LIMIT for row in report["cases"])
    assert max(row["plain_hierarchical"] for row in report["cases"]) > LIMIT
