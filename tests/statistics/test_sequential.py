"""Alpha spending: published boundaries, a simulated Brownian motion, and the committed calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.sequential_calibration import CASES, LIMIT, RESULTS, looked
from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.sequential import SHARES, critical_values, decide_by_looks, levels, spent


def test_the_boundaries_are_those_of_lan_and_demets_for_five_looks():
    assert critical_values(SHARES, 0.025) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=5e-4)


def test_one_look_is_the_ordinary_interval():
    assert levels((1.0,)) == [pytest.approx(LEVEL)]


def test_the_error_of_all_looks_together_is_alpha():
    generator = np.random.default_rng(0)
    steps = generator.normal(size=(400_000, 5)) * np.sqrt(0.2)
    z = steps.cumsum(axis=1) / np.sqrt(SHARES)
    crossed = (z >= critical_values()).any(axis=1)
    assert crossed.mean() == pytest.approx(0.05, abs=0.0015)
    assert (z >= critical_values()[0])[:, 0].mean() <= spent(0.2) + 1e-4


def test_it_stops_when_the_verdict_stands_and_asks_for_no_more():
    asked = []

    def measure(start, end):
        asked.append((start, end))
        return [-1.0 if i % 3 == 0 else 0.0 for i in range(start, end)]

    found = decide_by_looks(measure, 1000, 0.03)
    assert (found.verdict, found.n, found.look) == ("FAIL", 200, 1)
    assert asked == [(0, 200)]
    kept = decide_by_looks(lambda start, end: [0.0] * (end - start), 1000, 0.03)
    assert kept.verdict == "PASS"
    assert kept.n < 1000
    assert decide_by_looks(lambda start, end: [-1.0] + [0.0] * (end - start - 1), 40, 0.03).verdict == "UNDECIDED"


def test_shares_that_do_not_rise_to_one_are_refused():
    for shares in ((0.5, 0.4, 1.0), (0.5, 0.9), ()):
        with pytest.raises(ValueError, match="rise"):
            critical_values(shares)


def test_the_committed_calibration_covers_these_cases_and_holds():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert [(row["n"], row["discordance"], row["margin"]) for row in report["cases"]] == CASES
    assert all(row["false_pass_upper_99"] <= LIMIT for row in report["cases"])
    assert max(row["single_level_at_every_look"] for row in report["cases"]) > 0.08
    n, discordance, margin = CASES[0]
    again = looked(n, discordance, margin, margin, levels(), 90_000)[0]
    assert again == pytest.approx(report["cases"][0]["false_pass"], abs=1e-9)
