"""The rows of the DMT study are apart in content, and its claims are judged by their intervals."""

from __future__ import annotations

import json

from benchmarks import dmt, record
from keeptune.pocket.skills import split


def test_no_test_row_shares_its_content_with_a_training_row():
    for name in dmt.ABILITIES:
        rows = dmt.rows(name, 60, 20)
        assert len({row["prompt"] for row in rows}) == 80
        assert [row["split"] for row in rows].count("test") == 20
        assert rows == dmt.rows(name, 60, 20)
    contents = {part: set() for part in ("train", "test")}
    for row in dmt.rows("task", 300, 100):
        contents[row["split"]].add(row["completion"])
    assert not contents["train"] & contents["test"]


def test_a_claim_is_shown_only_by_its_whole_interval():
    def one(domain, than, low, high):
        return {"domain": domain, "cell": "k", "than": than, "value": (low + high) / 2, "low": low, "high": high}

    result = {
        "cells": [{"label": "k", "at": {"k": 0.25}}],
        "contrasts": [
            one("task", "sequential", 0.01, 0.2), one("general", "multitask", -0.06, 0.1),
            one("general", "multitask", -0.2, -0.06), one("second", "sequential", 0.1, 0.2),
        ],
        "trends": [{**one("task", "", -0.01, 0.03), "unit": "doubling of k"}],
    }  # fmt: skip
    assert [claim["verdict"] for claim in dmt.claims(result)] == ["shown", "open", "denied", "open"]


def test_answers_are_what_the_question_asks_for():
    random = dmt.Random("test")
    for _ in range(50):
        item = dmt.reversal(random)
        listed = item.prompt.split(": ")[1].split()
        assert item.answer.split() == listed[::-1]
        assert split(item) in ("train", "test")
        counted = dmt.counting(random)
        assert int(counted.answer) == len(counted.prompt.split(": ")[1].split())


def test_the_page_is_what_the_command_makes_of_the_record():
    kept = json.loads((record.RESULTS / "dmt.json").read_text(encoding="utf-8"))
    assert dmt.PAGE.read_text(encoding="utf-8") == dmt.page(kept)
    assert kept["rows"] == dmt.claims(kept)
    timed = dmt.page({**kept, "hours": 0.5, "machine": {"processor": "Own"}})
    assert "items. 0.50 hours of training and measuring, on Own." in timed
