"""A verdict over several tasks: the committed simulation holds, and the naming is the shipped Holm-McNemar."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.family_calibration import CASES, NAMED, RESULTS, Case, errs, measure
from keeptune.statistics.mcnemar import holm, mcnemar_loss
from keeptune.statistics.verdict_odds import verdict_odds

ROWS = json.loads(RESULTS.read_text(encoding="utf-8"))["cases"]


def test_the_committed_simulation_covers_these_cases_and_holds():
    assert [row["case"] for row in ROWS] == [case.name for case in CASES]
    assert all(row["draws"] >= 20_000 for row in ROWS)
    assert not any(errs(case, row) for case, row in zip(CASES, ROWS, strict=True))


def test_fail_is_not_corrected_and_the_record_shows_what_that_costs():
    edge = next(row for case, row in zip(CASES, ROWS, strict=True) if case == Case(8, 1500, 8, 1.0))
    single = verdict_odds(1500, 0.10, 0.03, 0.03).fail
    assert edge["fail"] == pytest.approx(1 - (1 - single) ** 8, abs=0.01)
    unharmed = [row["fail"] for case, row in zip(CASES, ROWS, strict=True) if not case.harmed]
    assert max(unharmed) < 0.005


def test_a_task_is_named_where_the_shipped_adjustment_names_it():
    case, seed = Case(4, 120, 1, 2.0), 3
    counts = case.draw(np.random.default_rng(seed), 200)
    p_values = [[mcnemar_loss(int(gains), int(losses)) for losses, gains in row] for row in counts]
    named = np.mean([min(holm(own)) < NAMED for own in p_values])
    assert 0.05 < named < 0.95
    assert measure(case, 200, seed)["named"] == pytest.approx(named)
