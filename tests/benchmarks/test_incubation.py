"""The page of Deep Incubation on a Markov chain says what the committed record says, and what the study took."""

from __future__ import annotations

import json

from benchmarks import incubation, record


def test_the_page_is_what_the_command_makes_of_the_record():
    kept = json.loads((record.RESULTS / "incubation.json").read_text(encoding="utf-8"))
    assert incubation.PAGE.read_text(encoding="utf-8") == incubation.page(kept)
    timed = incubation.page({**kept, "hours": 0.5, "machine": {"processor": "Own"}})
    assert "over seeds. 0.50 hours of training and measuring, on Own." in timed
