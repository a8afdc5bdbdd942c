"""A model that lost exactly the margin passes in 5% of draws; a short simulation, and the committed long one."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binom

from benchmarks.calibration import CASES, LIMIT, RESULTS, measure
from benchmarks.calibration_table import PAGE, table
from keeptune.statistics.verdict_odds import verdict_odds

DRAWS = 2_000
QUICK = [*[case for case in CASES if case.claimed and case.kind != "pooled"][::5], CASES[-3]]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.kind} {case.name}")
def test_the_false_pass_rate_is_no_higher_than_five_percent_and_noise(case):
    false_passes = measure(case, DRAWS, seed=77)["false_pass"] * DRAWS
    assert false_passes <= binom.ppf(0.9999, DRAWS, 0.05)


@pytest.mark.parametrize(("n", "margin"), [(90, 0.03), (200, 0.03), (300, 0.02), (1_319, 0.02)])
@pytest.mark.parametrize("gain", [0.0, 0.001, 0.01, 0.05, 0.2])
def test_the_exact_false_pass_rate_never_exceeds_five_percent(n, margin, gain):
    assert verdict_odds(n, margin + 2 * gain, margin, margin).pass_ <= 0.05


def test_the_paper_s_interval_alone_would_exceed_it():
    assert verdict_odds(90, 0.03, 0.03, 0.03, continuity=False).pass_ > 0.06


def test_the_committed_simulation_covers_these_cases_and_holds():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert [row["case"] for row in report["cases"]] == [case.name for case in CASES]
    assert all(row["draws"] >= 20_000 for row in report["cases"])
    assert all(row["false_pass_upper_99"] <= LIMIT for row in report["cases"] if row["claimed"])
    assert max(row["worst_pass_corrected"] for row in report["exact_binary"]) <= 0.05


def test_the_table_in_the_docs_is_the_committed_simulation():
    assert table() in PAGE.read_text(encoding="utf-8")
