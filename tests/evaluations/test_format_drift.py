"""The format leak: answers put into the model's mouth, counted by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from keeptune.core.example import Example, Message
from keeptune.data.suite import Suite
from keeptune.engine.book import book_of
from keeptune.evaluations import format_drift
from keeptune.evaluations.format_drift import FormatDrift
from tests.evaluations.tiny_subject import BASE, context, with_adapter

REQUESTS = ("Write a poem.", "Why is the sky blue?", "Describe a garden.", "Tell me a joke.")
SAID = ["card_arrival", "Lost card. Sorry!", "It is green.", '{"label": 3}']


def data(answers):
    rows = [Example(str(i), (Message("user", "x"), Message("assistant", text))) for i, text in enumerate(answers)]
    return {"task/train": rows}


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(format_drift, "free_answers", lambda *given: SAID)
    return context(suite=Suite("s", "1", instructions=REQUESTS), data=data(["card_arrival", "lost_card"] * 5))


def test_answers_that_open_with_a_label_count_as_leaked(said):
    score = FormatDrift().measure(BASE, said)[0]
    assert (score.kind, score.n, score.value, score.higher_is_better) == ("leak", 4, 0.5, False)
    assert [item.score for item in score.items] == [1.0, 1.0, 0.0, 0.0]
    assert [item.prompt for item in score.items] == list(REQUESTS)


def test_a_pattern_may_stand_for_the_format(said):
    score = FormatDrift(pattern=r'\{"label": \d+\}').measure(BASE, said)[0]
    assert [item.score for item in score.items] == [0.0, 0.0, 0.0, 1.0]


def test_free_answers_have_no_format_to_leak(said):
    said.data = data([f"This is answer number {i} and it goes on for a while." for i in range(10)])
    assert FormatDrift().measure(BASE, said) == []


def test_a_pattern_that_does_not_compile_is_refused():
    with pytest.raises(ValidationError, match="not a regular expression"):
        FormatDrift(pattern="(")


def test_a_prompt_that_is_off_as_deployed_is_asked_with_when_told(monkeypatch, tmp_path):
    """The answer is a label only while the task's adapter is on: routed, nothing leaks; prompted, everything."""
    subject, asked = with_adapter("task", tmp_path / "own"), []

    def answer(given, turns, *_):
        on = book_of(given.model).serving.shared == ("own",)
        asked.append(on)
        return ["card_arrival" if on else "It is green."] * len(turns)

    monkeypatch.setattr(format_drift, "free_answers", answer)
    own = context(subject, suite=Suite("s", "1", instructions=REQUESTS), data=data(["card_arrival", "lost_card"] * 5))
    assert FormatDrift().measure(BASE, own)[0].value == 0.0
    assert FormatDrift(prompted=True).measure(BASE, own)[0].value == 1.0
    assert asked == [False, True]
