"""Verdicts come as often as `plan` forecasts: the committed simulation, and a smaller one made anew."""

from __future__ import annotations

import json

from benchmarks.forecast import CASES, RESULTS, Case, agrees, compare

ROWS = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]


def test_the_committed_simulation_covers_every_case_and_agrees():
    assert {row["suite"] for row in ROWS} == {case.name for case in CASES}
    assert len(ROWS) == sum(2 * len(case.tasks) + 4 for case in CASES)
    assert all(map(agrees, ROWS)), [row for row in ROWS if not agrees(row)]


def test_the_simulation_looks_where_the_odds_are_neither_nothing_nor_certain():
    """Odds of 0 and 1 would agree with any rule that is far enough off."""
    assert sum(0.1 < row["forecast"] < 0.9 for row in ROWS) >= 10


def test_a_suite_simulated_anew_agrees():
    for row in compare(CASES[3], seed=7, draws=10_000, pooled_draws=400):
        assert agrees(row), row


def test_a_forecast_for_other_items_would_be_found_out():
    case = CASES[3]
    fewer = Case(case.name, tuple((n * 3 // 4, d) for n, d in case.tasks), case.margins)
    said = {row["what"]: row["forecast"] for row in compare(fewer, seed=7, draws=200, pooled_draws=200)}
    rows = [{**row, "forecast": said[row["what"]]} for row in compare(case, seed=7, draws=10_000, pooled_draws=200)]
    assert not any(agrees(row) for row in rows if row["what"].endswith("PASS") and row["what"].startswith("task"))
