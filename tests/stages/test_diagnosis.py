"""Kinds of loss from scores made by hand, and a recovery of a tiny model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.report.diagnosis import diagnosis as drawn
from keeptune.stages._diagnosis import diagnose
from keeptune.stages._recovery import recover
from keeptune.statistics.power import items_above_chance
from tests.evaluations.tiny_subject import tiny, tokenizer
from tests.stages.scores import accuracy, answers, bits, corpus, flipped

MARGINS = {"pooled": 0.01, "task": 0.03, "corpus": 0.01, "leak": 0.02}
RIGHT = answers(0.8, 400, 3)


def side(known=0, said=0, factor=1.0):
    """A task known and said, with so many answers lost."""
    free = accuracy("a", flipped(RIGHT, said, 0), 0.0, "diagnosis", "said_0_shot")
    return [accuracy("a", flipped(RIGHT, known, 0)), free, corpus("books", bits(factor=factor))]


def told(adapted, recovered, leak=None, unchanged=False):
    return diagnose(side(), adapted, recovered, MARGINS, leak=leak, unchanged=unchanged)


def test_known_and_no_longer_said_is_form():
    found = told(side(said=120), side(said=12))
    assert found["kinds"] == ["format"]
    assert found["format_gap"]["delta"] == pytest.approx(120 / 400)
    assert found["recovered_share"] == pytest.approx(0.9)


def test_what_stays_lost_is_knowledge_and_what_comes_back_is_not():
    stays = told(side(known=120, said=120), side(known=120, said=120))
    assert stays["kinds"] == ["knowledge"]
    assert stays["format_gap"]["delta"] == pytest.approx(0.0)
    assert stays["lost"][0]["name"] == "a"
    back = told(side(known=120, said=120), side())
    assert back["kinds"] == ["recoverable"]
    assert back["recovered_share"] == 1.0


def test_bits_per_byte_beyond_the_margin_are_a_loss_too():
    assert told(side(factor=1.1), side(factor=1.1))["lost"][0]["name"] == "books"


def test_moved_answers_without_a_loss_are_drift_and_none_at_all_is_unchanged():
    assert told(side(known=1), side())["kinds"] == ["drift"]
    assert told(side(), side(), unchanged=True)["kinds"] == ["unchanged"]
    assert told(side(), side(), leak={"verdict": "FAIL"})["kinds"] == ["format"]


def test_items_that_the_copy_was_not_asked_are_left_out():
    part = [replace(score, items=score.items[:100]) for score in side(known=120)]
    assert told(side(known=120), part)["lost"][0]["delta"] == pytest.approx(-1.0 * sum(RIGHT[:100]) / 100)


def test_the_page_says_it_and_shows_the_numbers():
    page = str(drawn({**told(side(said=120), side(said=12)), "detach": True}))
    assert "Form: answers are known" in page
    assert "bitwise the base" in page
    assert "+30.0" in page


def test_recovery_learns_its_rows_and_leaves_the_copy_s_own_weights_alone():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class Opened:
        pass

    opened = Opened()
    opened.model, opened.tokenizer = model, tokenizer()
    rows = [Example(str(i), (Message("user", "Say it."), Message("assistant", "a green door"))) for i in range(8)]
    subject = recover(opened, Checkpoint("tiny"), rows, seed=0)
    after = subject.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    from keeptune.evaluations._likelihood import Answers, log_likelihoods
    from tests.evaluations.tiny_subject import context

    asked = Answers(tokenizer()).rows([Message("user", "Say it.")], ["a green door"])
    with subject.off_task():
        learned = log_likelihoods(subject, asked, context(subject), "x")[0]
    with subject._active([]):
        plain = log_likelihoods(subject, asked, context(subject), "x")[0]
    assert learned > plain + 1


def test_states_that_keep_what_the_output_lost_are_told_and_name_no_kind():
    def with_states(lost, **losses):
        return [*side(**losses), accuracy("a", flipped(RIGHT, lost, 0), 0.25, "diagnosis", "represented")]

    def told_of(lost):
        return diagnose(
            with_states(0), with_states(lost, known=120), side(known=120), MARGINS, leak=None, unchanged=False
        )

    kept, gone = told_of(0), told_of(120)
    assert kept["kinds"] == gone["kinds"] == ["knowledge"]
    assert kept["states_gap"]["delta"] == pytest.approx(120 / 400)
    assert any(sentence.startswith("Inside") for sentence in kept["sentences"])
    assert gone["states_gap"]["delta"] == pytest.approx(0.0)
    assert not any(sentence.startswith("Inside") for sentence in gone["sentences"])
    assert gone["represented"]["delta"] == pytest.approx(-120 / 400)
    page = str(drawn(kept))
    assert "a probe of the states answers" in page
    # States that guess have nothing to say.
    guessing = [*side(), accuracy("a", answers(0.15, 400, 4), 0.25, "diagnosis", "represented")]
    silent = diagnose(guessing, guessing, side(), MARGINS, leak=None, unchanged=True)
    assert silent["represented"] is None
    assert [(one["name"], one["n"], one["items_needed"]) for one in silent["represented_left_out"]] == [
        ("a", 400, None)
    ]


def test_states_that_are_just_above_guessing_say_how_many_questions_would_tell_it():
    above = [*side(), accuracy("a", answers(0.28, 400, 4), 0.25, "diagnosis", "represented")]
    silent = diagnose(above, above, side(), MARGINS, leak=None, unchanged=True)["represented_left_out"][0]
    assert silent["items_needed"] == items_above_chance(silent["base"], 0.25, 0.01)
    assert silent["items_needed"] > 400
    assert f"a (about {silent['items_needed']:,} questions)" in str(
        drawn(diagnose(above, above, side(), MARGINS, leak=None, unchanged=True))
    )


def test_a_task_with_a_margin_of_its_own_is_lost_beyond_that_alone():
    wide = {**MARGINS, "tasks": {"a": 0.4}}
    lost = diagnose(side(), side(known=40), side(known=40), wide, leak=None, unchanged=False)["lost"]
    assert [part["name"] for part in told(side(known=40), side(known=40))["lost"]] == ["a"]
    assert lost == []
