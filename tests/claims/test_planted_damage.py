"""Models damaged on purpose are called what they are: the committed result, and the same measured anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.planted_damage import DAMAGES, DOMAIN, RESULTS, examine_all


def check(report: dict[str, dict[str, Any]]) -> None:
    """What every damage has to be called."""
    assert report.keys() == DAMAGES.keys()
    assert report["nothing"]["verdict"] == report["noise"]["verdict"] == "PASS"
    assert report["label bias"]["verdict"] == report["forgotten"]["verdict"] == "FAIL"
    assert report["nothing"]["kinds"] == ["unchanged"]
    assert report["noise"]["kinds"] == ["drift"]
    assert report["noise"]["kl_to_base"] > 0
    assert report["label bias"]["kinds"] == ["format"]
    assert "knowledge" in report["forgotten"]["kinds"]
    assert "format" not in report["forgotten"]["kinds"]
    worst = min(report["forgotten"]["lost"], key=lambda part: part["delta"])
    assert (worst["name"], worst["after_recovery"]) == (DOMAIN, "lost")


def test_the_committed_damages_are_diagnosed_as_what_they_are():
    check({row["damage"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]})


@pytest.mark.claims
def test_damages_planted_anew_are_diagnosed_as_what_they_are():
    check({row["damage"]: row for row in examine_all()})
