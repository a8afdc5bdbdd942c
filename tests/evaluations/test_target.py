"""Oracles: a slow loop over labels; answers put into the model's mouth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.data.encode import encode
from keeptune.evaluations import Subject, target
from keeptune.evaluations.target import Target
from tests.evaluations.tiny_subject import BASE, context, slow_log_likelihood, tiny, tokenizer

LABELS = ("files", "graphs", "time")


def row(name, answer):
    return Example(name, (Message("user", f"Which area? {name}"), Message("assistant", answer)))


ROWS = {
    "task/train": [row(f"t{i}", label) for i, label in enumerate(LABELS)],
    "task/test": [row("a", "files"), row("b", "time"), row("c", "graphs"), row("d", "files")],
}


def test_texts_that_are_learned_beside_the_questions_are_no_answers():
    texts = [Example(f"x{i}", text=f"text number {i}") for i in range(600)]
    found = context(Subject(tiny(), tokenizer()), data={**ROWS, "task/train": [*ROWS["task/train"], *texts]})
    assert found.answers("task") == sorted(LABELS)


def test_label_accuracy_ranks_whole_answers_as_a_slow_loop_does():
    subject = Subject(tiny(), tokenizer())
    score = Target(metric="label_accuracy").measure(BASE, context(subject, data=ROWS))[0]
    assert (score.kind, score.task, score.n, score.chance) == ("target", "task", 4, pytest.approx(1 / 3))
    for item, example in zip(score.items, ROWS["task/test"], strict=True):
        values = {}
        for label in LABELS:
            encoded = encode([*example.prompt, Message("assistant", label)], tokenizer())
            start = encoded.learned.index(True)
            values[label] = slow_log_likelihood(subject.model, encoded.tokens, start)
        assert item.prediction == max(values, key=values.get)
        assert item.gold_logprob == pytest.approx(values[example.target], abs=1e-4)


@pytest.mark.parametrize(("metric", "value"), [("exact_match", 0.5), ("token_f1", 0.75), ("rouge_l", 0.75)])
def test_generated_answers_are_scored_against_their_references(monkeypatch, metric, value):
    said = ["Files.", "the time", "graphs", "models x"]
    monkeypatch.setattr(target, "free_answers", lambda *given: said)
    wanted = {"exact_match": [1, 0, 1, 0], "token_f1": [1, 2 / 3, 1, 0], "rouge_l": [1, 2 / 3, 1, 0]}[metric]
    score = Target(metric=metric).measure(BASE, context(data=ROWS))[0]
    assert [item.score for item in score.items] == pytest.approx(wanted)
    assert [item.prediction for item in score.items] == said


def test_preference_accuracy_holds_two_whole_answers_against_each_other():
    rows = [replace(one, rejected=LABELS[(LABELS.index(one.target) + 1) % 3]) for one in ROWS["task/test"]]
    subject = Subject(tiny(), tokenizer())
    score = Target(metric="preference_accuracy").measure(BASE, context(subject, data={"task/test": rows}))[0]
    assert (score.n, score.chance, score.higher_is_better) == (4, 0.5, True)
    for item, example in zip(score.items, rows, strict=True):
        values = []
        for said in (example.target, example.rejected):
            encoded = encode([*example.prompt, Message("assistant", said)], tokenizer())
            values.append(slow_log_likelihood(subject.model, encoded.tokens, encoded.learned.index(True)))
        assert item.score == float(values[0] > values[1])
        assert item.prediction == (example.target if values[0] > values[1] else example.rejected)
    assert 0 < score.value < 1, "the rows tell the answers apart"
    with pytest.raises(RecipeError, match="'task' has rows with one"):
        Target(metric="preference_accuracy").measure(BASE, context(subject, data=ROWS))


def test_bits_per_byte_of_answers_and_of_plain_texts():
    subject = Subject(tiny(), tokenizer())
    score = Target(metric="bits_per_byte").measure(BASE, context(subject, data=ROWS))[0]
    encoded = encode(ROWS["task/test"][0], tokenizer())
    bits = -slow_log_likelihood(subject.model, encoded.tokens, encoded.learned.index(True)) / math.log(2)
    assert not score.higher_is_better
    assert score.items[0].score == pytest.approx(bits, rel=1e-5)
    assert score.items[0].size == len("files")
    texts = {"task": [Example("1", text="Once upon a time.")]}
    plain = Target(metric="bits_per_byte").measure(BASE, context(subject, data=texts))[0]
    assert plain.items[0].size == len("Once upon a time.")


def test_a_source_that_does_not_exist_is_named_with_the_nearest_one():
    with pytest.raises(RecipeError, match=r"no data source is called 'taks'.*Did you mean 'task'"):
        Target(data="taks").measure(BASE, context(data=ROWS))


def test_label_accuracy_needs_labels():
    free = {"task": [row("a", "files")]}
    with pytest.raises(RecipeError, match=r"1 different answer\."):
        Target(metric="label_accuracy").measure(BASE, context(data=free))
