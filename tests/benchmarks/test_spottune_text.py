"""Decisions of tasks lie apart beyond chance where a task made them, and not where a seed did."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import record, spottune_reading, spottune_text


def made_up(open_of):
    """Runs of one arm, five seeds and three tasks; `open_of(seed, task)` is the share of one of two blocks."""
    return [
        {"arm": "one", "task": task, "seed": seed, "open": [open_of(seed, place), 1.0],
         "lean": [0.5, 0.5], "mixed": 1, "score": 0.25}
        for seed in range(5) for place, task in enumerate(("areas", "reversal", "polite"))
    ]  # fmt: skip


def test_a_task_that_decides_is_told_from_a_seed_that_does():
    own, equal = spottune_reading.readings(made_up(lambda seed, place: place / 2))
    assert own["apart"] == pytest.approx((0.5 + 0.5 + 1.0) / 3 / 2)
    assert own["p"] == pytest.approx(1 / 6**4), "no exchange but the true one puts tasks so far apart"
    assert equal["p"] == 1.0
    assert equal["apart"] == 0.0
    (seeds, _) = spottune_reading.readings(made_up(lambda seed, place: seed / 4))
    assert seeds["apart"] == pytest.approx(0.0)
    assert seeds["p"] == 1.0


def test_chance_covers_what_tasks_that_do_not_matter_give():
    """With values drawn alike for all tasks, p lies below 0.2 in about a fifth of the draws."""
    random, low = np.random.default_rng(0), 0
    for _ in range(100):
        values = random.random((3, 3, 2))
        chance = spottune_reading.by_chance(values)
        low += (chance >= spottune_reading.distance(values) - 1e-12).mean() <= 0.2
    assert 10 <= low <= 30


def test_the_page_is_what_the_command_makes_of_the_record():
    kept = json.loads((record.RESULTS / "spottune_text.json").read_text(encoding="utf-8"))
    assert spottune_text.PAGE.read_text(encoding="utf-8") == spottune_reading.page(kept)
    assert kept["rows"] == spottune_reading.readings(kept["runs"])
