"""Free answers to the suite's questions, behaviour, and the small classifier: counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.data.suite import Choice, ChoiceTask, Suite
from keeptune.evaluations import behaviour, spoken
from keeptune.evaluations._training_like import TrainingLike, features
from keeptune.evaluations.behaviour import Behaviour, is_json
from keeptune.evaluations.spoken import Spoken
from tests.evaluations.tiny_subject import BASE, context

ITEMS = tuple(Choice(str(i), f"What is {i}?", ("red", "red wine", "blue"), i % 3) for i in range(6))
SUITE = Suite("s", "1", (ChoiceTask("colours", ITEMS, 1 / 3, chat=True), ChoiceTask("plain", ITEMS, 1 / 3)))


def test_an_answer_is_right_when_it_opens_with_the_right_option_and_no_longer_one(monkeypatch):
    said = ["Red.", "red, of course", "It is blue", "red wine please", "Red wine!", "BLUE"]
    monkeypatch.setattr(spoken, "free_answers", lambda *given: said)
    (score,) = Spoken().measure(BASE, context(suite=SUITE))
    assert (score.task, score.kind, score.metric) == ("colours", "diagnosis", "said_0_shot")
    assert [item.score for item in score.items] == [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_shown_questions_come_before_as_turns_and_are_not_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(spoken, "free_answers", lambda s, turns, *rest: asked.extend(turns) or ["x"] * len(turns))
    Spoken(shots=2).measure(BASE, context(suite=SUITE))
    assert len(asked) == 4
    assert [turn.content for turn in asked[0]] == ["What is 4?", "red wine", "What is 5?", "blue", "What is 0?"]


def test_behaviour_counts_each_look(monkeypatch):
    said = {
        "base": ["A long plain answer about gardens."] * 8,
        "own": ["card", "Sorry, I cannot.", "你好", '{"a": 1}'] * 2,
    }
    monkeypatch.setattr(behaviour, "free_answers", lambda subject, *rest: said[subject.files])
    own = context(suite=Suite("s", "1", instructions=tuple(f"Request {i}" for i in range(8))))
    opened = own.subject(BASE)
    own.subject = lambda asked: replace(opened, files="base" if asked == BASE else "own", adapters=())
    own.data = {"task/train": [Example(str(i), (Message("user", "x"), Message("assistant", "card"))) for i in range(4)]}
    found = {score.metric: score for score in Behaviour().measure(Checkpoint("other"), own)}
    assert {name: found[name].value for name in ("refusal", "han", "json")} == {
        "refusal": 0.25,
        "han": 0.25,
        "json": 0.25,
    }
    assert found["words"].value == pytest.approx((1 + 3 + 2 + 2) / 4)
    assert [item.id for item in found["training_like"].items] == [f"request-{i}" for i in (1, 3, 5, 7)]
    assert {score.metric: score.value for score in Behaviour().measure(BASE, own)}["training_like"] == 0.0


def test_the_classifier_is_the_formula_and_tells_unseen_answers_apart():
    like = TrainingLike(["card arrival", "lost card"], ["it is a fine day.", "the sea is blue."])
    assert like("card lost")
    assert not like("It is blue today.")
    trained = features("card arrival") + features("lost card")
    plain = features("it is a fine day.") + features("the sea is blue.")
    size = len(set(trained) | set(plain)) + 1
    by_hand = [
        math.log((trained.count(f) + 1) / (len(trained) + size)) - math.log((plain.count(f) + 1) / (len(plain) + size))
        for f in features("card lost")
    ]
    assert like.log_odds("card lost") == pytest.approx(sum(by_hand) / len(by_hand))


def test_json_is_an_object_or_a_list():
    assert [is_json(text) for text in ('{"a": 1}', "[1, 2]", "3", "hello", "")] == [True, True, False, False, False]
