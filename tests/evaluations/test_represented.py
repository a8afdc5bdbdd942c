"""The probe of the states against ridge regression by least squares, on planted states, and on a model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from keeptune.data.suite import Choice, ChoiceTask, Suite
from keeptune.evaluations import represented
from keeptune.evaluations.represented import FOLDS, Represented, answered, fold
from tests.evaluations.tiny_subject import BASE, context, tiny


def planted(signal, questions=200, options=3, width=12, seed=0):
    """States in which one direction says which option is right, `signal` deviations of the noise apart."""
    draw = np.random.default_rng(seed)
    golds = draw.integers(options, size=questions)
    states = draw.normal(size=(questions, options, width)) + 5 * draw.normal(size=(questions, 1, width))
    states[np.arange(questions), golds, 0] += signal
    return (
        states.reshape(-1, width),
        [options] * questions,
        golds.tolist(),
        [place % FOLDS for place in range(questions)],
    )


def share(said, golds):
    return np.mean([one == gold for one, gold in zip(said, golds, strict=True)])


def test_what_the_states_say_is_found_behind_what_questions_have_in_common_and_noise_is_guessing():
    clear, sizes, golds, folds = planted(4)
    assert share(answered([clear], sizes, golds, folds), golds) > 0.9
    nothing = planted(0)
    assert abs(share(answered([nothing[0]], *nothing[1:]), nothing[2]) - 1 / 3) < 0.12
    # Of two layers the one that says something is read.
    assert share(answered([nothing[0], clear], sizes, golds, folds), golds) > 0.9


def test_the_answers_are_those_of_ridge_regression_on_the_other_folds(monkeypatch):
    states, sizes, golds, folds = planted(1.5)
    monkeypatch.setattr(represented, "STRENGTHS", (2.0,))
    said = answered([states], sizes, golds, folds)
    rows = states.reshape(len(golds), 3, -1)
    rows = (rows - rows.mean(axis=1, keepdims=True)).reshape(len(states), -1)
    rows /= rows.std(axis=0)
    rows /= np.sqrt((rows**2).sum(axis=1).mean())
    wanted = (np.eye(3)[golds] - 1 / 3).ravel()
    for test in range(FOLDS):
        known = np.repeat(folds, 3) != test
        # min |X w - y|^2 + 2 |w|^2, as least squares with a row more for each dimension
        more = np.concatenate([rows[known], np.sqrt(2.0) * np.eye(rows.shape[1])])
        theirs = rows @ np.linalg.lstsq(more, np.append(wanted[known], np.zeros(rows.shape[1])), rcond=None)[0]
        for place, number in enumerate(folds):
            if number == test:
                assert said[place] == theirs[3 * place : 3 * place + 3].argmax()


def test_options_that_are_level_or_no_numbers_are_no_answer():
    states, sizes, golds, folds = planted(4, questions=60)
    level = np.zeros_like(states)
    assert answered([level], sizes, golds, folds) == [None] * 60
    states[0, 0] = np.nan
    assert answered([states], sizes, golds, folds) == [None] * 60


def test_folds_depend_on_the_name_alone_and_are_of_about_one_size():
    counts = Counter(fold(f"question {number}") for number in range(1000))
    assert set(counts) == set(range(FOLDS))
    assert max(counts.values()) < 250


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_is_asked_off_its_task_and_the_state_is_that_of_the_options_last_token(chat):
    """The right option is the longer word here, which any state of a random model tells."""
    items = tuple(
        Choice(str(n), f"number {n} is", (" a", " a bigger one") if n % 2 else (" a bigger one", " a"), n % 2)
        for n in range(60)
    )
    few = tuple(items[:40])
    suite = Suite("own", "1", (ChoiceTask("size", items, 0.5, chat=chat), ChoiceTask("few", few, 0.5)))
    asked = context(suite=suite)
    (score,) = Represented().measure(BASE, asked)
    assert (score.task, score.kind, score.metric, score.n) == ("size", "diagnosis", "represented", 60)
    assert score.value > 0.95
    assert [item.gold for item in score.items[:2]] == [" a bigger one", " a bigger one"]
    again = Represented().measure(BASE, asked)
    assert [item.score for item in again[0].items] == [item.score for item in score.items]


def test_states_are_those_of_each_row_alone():
    import torch

    model, rows = tiny(), [(5, 6, 7), (8, 9), (10, 11, 12, 13)]
    asked = context()
    found = represented.option_states(asked.subject(BASE), rows, asked, "x")
    for place, tokens in enumerate(rows):
        with torch.no_grad():
            states = model.base_model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        assert found[-1][place] == pytest.approx(states[-1][0, -1].double().numpy(), abs=1e-4)
