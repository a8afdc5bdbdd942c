"""The forecast of the proof's power against the published figures for two suites."""

from __future__ import annotations

import pytest

from keeptune.planning.power import suite_power
from keeptune.statistics.verdict_odds import verdict_odds

SUITE = {"a": 2000, "b": 500}


def test_the_odds_are_those_of_the_statistics():
    found = suite_power(SUITE, {"pooled": 0.01, "task": 0.03})
    single = [verdict_odds(n, 0.1, 0.0, 0.03).pass_ for n in SUITE.values()]
    assert found["every_task_passes"] == pytest.approx(single[0] * single[1])
    assert found["tasks"] == pytest.approx(dict(zip(SUITE, single, strict=True)))
    lost = [verdict_odds(n, 0.1, 0.06, 0.03).fail for n in SUITE.values()]
    assert found["harmed"]["tasks"] == pytest.approx(dict(zip(SUITE, lost, strict=True)))
    assert found["harmed"]["some_task_fails"] == pytest.approx(1 - (1 - lost[0]) * (1 - lost[1]))


def test_a_task_is_held_against_its_own_margin():
    found = suite_power(SUITE, {"pooled": 0.01, "task": 0.03, "tasks": {"b": 0.06}})
    assert found["tasks"]["b"] == pytest.approx(verdict_odds(500, 0.1, 0.0, 0.06).pass_)


@pytest.mark.parametrize("count", [1, 4])
def test_with_the_items_that_it_asks_for_the_odds_are_eighty_percent(count):
    margins = {"pooled": 0.01, "task": 0.03}
    asked = suite_power({str(n): 100 for n in range(count)}, margins)
    each = suite_power({str(n): asked["items_for_each_task"] for n in range(count)}, margins)
    pool = suite_power({str(n): asked["items_for_the_pool"] for n in range(count)}, margins)
    assert each["every_task_passes"] == pytest.approx(0.8, abs=0.01)
    assert pool["pooled_pass"] == pytest.approx(0.8, abs=0.01)


def test_with_the_margins_that_it_proposes_the_odds_are_eighty_percent():
    found = suite_power(SUITE, {"pooled": 0.01, "task": 0.03})
    carried = suite_power(SUITE, {"pooled": 0.01, "task": 0.03, "tasks": found["margins_carried"]})
    assert carried["every_task_passes"] == pytest.approx(0.8, abs=0.01)


def test_a_suite_without_accuracy_tasks_has_no_forecast():
    assert suite_power({}, {"pooled": 0.01, "task": 0.03}) is None
