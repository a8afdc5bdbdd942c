"""Models damaged on purpose are called what they are: the committed results, and those of one seed measured anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.planted_damage import DAMAGES, DOMAIN, RESULTS, SEEDS, examine_all


def check(row: dict[str, Any]) -> None:
    """What a damage has to be called."""
    assert row["verdict"] == ("PASS" if row["damage"] in ("nothing", "noise") else "FAIL")
    if row["damage"] == "nothing":
        assert row["kinds"] == ["unchanged"]
    elif row["damage"] == "noise":
        assert row["kinds"] == ["drift"]
        assert row["kl_to_base"] > 0
    elif row["damage"] == "label bias":
        assert row["kinds"] == ["format"]
    else:
        assert "knowledge" in row["kinds"]
        assert "format" not in row["kinds"]
        worst = min(row["lost"], key=lambda part: part["delta"])
        assert (worst["name"], worst["after_recovery"]) == (DOMAIN, "lost")


def committed() -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["damage"], row["seed"]): row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}


def test_every_damage_was_planted_with_every_seed():
    assert committed().keys() == {("nothing", SEEDS[0])} | {
        (name, seed) for name in DAMAGES if name != "nothing" for seed in SEEDS
    }


@pytest.mark.parametrize("which", committed(), ids=str)
def test_the_committed_damages_are_diagnosed_as_what_they_are(which):
    check(committed()[which])


@pytest.mark.claims
def test_damages_planted_anew_are_diagnosed_as_what_they_are():
    rows = list(examine_all([(name, SEEDS[0]) for name in DAMAGES]))
    assert len(rows) == len(DAMAGES)
    for row in rows:
        check(row)
