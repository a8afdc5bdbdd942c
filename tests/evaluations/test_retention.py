"""Oracles: a slow loop over single forward passes; closed forms for a model without preferences."""

from __future__ import annotations

import math

import pytest
import torch

from keeptune.core.example import Message
from keeptune.data.encode import encode
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, GenerationTask, Question, Suite
from keeptune.evaluations import Subject
from keeptune.evaluations._likelihood import Answers, after_prompt, best_option
from keeptune.evaluations.retention import Retention, bits_per_byte, choice_accuracy
from tests.evaluations.tiny_subject import (
    BASE,
    context,
    slow_log_likelihood,
    tiny,
    tokenizer,
    with_adapter,
)

QUESTIONS = (
    Choice("1", "The dog", (" is old.", " are old."), 0),
    Choice("2", "She looked at these", (" box.", " boxes.", " a box of stones."), 1),
    Choice("3", "The letters near the door", (" was lost.", " were lost."), 1),
)
TEXTS = ("It returns a list. " * 3, "Nothing happens here, and then it ends.", "é — ß")


def task(**changes):
    return ChoiceTask("choices", QUESTIONS, chance=0.5, **changes)


def slow_values(model, item):
    opening = tokenizer().eos_token_id
    values = []
    for option in item.options:
        prompt = tokenizer()(item.prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer()(item.prompt + option, add_special_tokens=False)["input_ids"]
        values.append(slow_log_likelihood(model, [opening, *whole], 1 + len(prompt)))
    return values


@pytest.mark.parametrize("normalise", ["none", "bytes", "prior"])
def test_the_chosen_option_is_that_of_a_slow_loop(normalise):
    subject = Subject(tiny(), tokenizer())
    score = choice_accuracy(subject, task(normalise=normalise), context(subject))
    for item, question in zip(score.items, QUESTIONS, strict=True):
        values = slow_values(subject.model, question)
        ranked = values
        if normalise == "bytes":
            ranked = [value / len(option) for value, option in zip(values, question.options, strict=True)]
        if normalise == "prior":
            alone = slow_values(subject.model, Choice("", "", question.options, 0))
            ranked = [value - prior for value, prior in zip(values, alone, strict=True)]
        assert item.prediction == question.options[max(range(len(ranked)), key=ranked.__getitem__)]
        assert item.gold_logprob == pytest.approx(values[question.gold], abs=1e-4)
        assert item.score == float(item.prediction == item.gold)
    assert score.value == pytest.approx(sum(item.score for item in score.items) / 3)


def test_a_chat_answer_is_scored_as_training_sees_it_end_of_turn_included():
    subject = Subject(tiny(), tokenizer())
    score = choice_accuracy(subject, task(chat=True), context(subject))
    for item, question in zip(score.items, QUESTIONS, strict=True):
        turns = [Message("user", question.prompt), Message("assistant", question.options[question.gold])]
        encoded = encode(turns, tokenizer())
        taught = [i for i, learned in enumerate(encoded.learned) if learned]
        wanted = slow_log_likelihood(subject.model, encoded.tokens[: taught[-1] + 1], taught[0])
        assert item.gold_logprob == pytest.approx(wanted, abs=1e-4)


def test_answers_are_encoded_whole_when_the_template_joins_them_with_the_prompt(monkeypatch):
    quick = Answers(tokenizer())
    whole = Answers(tokenizer())
    whole._ends = None
    prompt = [Message("user", "Name it.")]
    assert quick.rows(prompt, ["a table", "x"]) == whole.rows(prompt, ["a table", "x"])


def test_a_model_without_preferences_is_wrong_everywhere():
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    subject = Subject(model, tokenizer())
    same_length = ChoiceTask("ties", (Choice("1", "A", (" the", " to"), 0), Choice("2", "A", (" to", " of"), 1)), 0.5)
    assert choice_accuracy(subject, same_length, context(subject)).value == 0.0


def test_ties_and_values_that_are_no_numbers_choose_nothing():
    assert best_option([-1.0, -2.0]) == 0
    assert best_option([-1.0, -1.0, -3.0]) is None
    assert best_option([-1.0, math.nan]) is None


def test_bits_per_byte_are_those_of_a_slow_loop():
    subject = Subject(tiny(), tokenizer())
    corpus = Corpus("texts", tuple(Document(str(i), text) for i, text in enumerate(TEXTS)))
    score = bits_per_byte(subject, corpus, context(subject))
    total = 0.0
    for item, text in zip(score.items, TEXTS, strict=True):
        ids = [tokenizer().eos_token_id, *tokenizer()(text, add_special_tokens=False)["input_ids"]]
        bits = -slow_log_likelihood(subject.model, ids, 1) / math.log(2)
        assert item.score == pytest.approx(bits, rel=1e-5)
        assert item.size == len(text.encode())
        total += bits
    assert score.value == pytest.approx(total / sum(len(text.encode()) for text in TEXTS), rel=1e-5)


def test_a_uniform_model_spends_log2_of_the_vocabulary_on_every_token():
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    subject = Subject(model, tokenizer())
    score = bits_per_byte(subject, Corpus("one", (Document("1", TEXTS[0]),)), context(subject))
    count = len(tokenizer()(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert score.items[0].score == pytest.approx(count * math.log2(len(tokenizer())), rel=1e-5)


def test_a_text_longer_than_the_context_is_read_in_windows_and_each_token_once():
    subject = Subject(tiny(max_position_embeddings=8), tokenizer())
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()
    score = bits_per_byte(subject, Corpus("one", (Document("1", TEXTS[0]),)), context(subject))
    count = len(tokenizer()(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert count > 8
    assert score.items[0].score == pytest.approx(count * math.log2(len(tokenizer())), rel=1e-5)


def test_an_option_that_joins_its_prompt_in_one_token_is_scored_from_that_token():
    row = after_prompt(tokenizer(), ["The do"], ["g is old."])[0]
    text = tokenizer().decode(list(row.tokens[row.start :]))
    assert text.endswith("is old.")
    assert "g" in text.split("is")[0]


def suite():
    return Suite(
        "small",
        "1",
        tasks=(task(),),
        corpora=(Corpus("texts", (Document("1", TEXTS[0]), Document("2", TEXTS[1]))),),
        generations=(GenerationTask("open", (Question("1", "Say yes.", "yes"),), max_new_tokens=3),),
    )


def test_the_same_measurement_twice_gives_the_same_bits():
    both = [Retention().measure(BASE, context(suite=suite())) for _ in range(2)]
    assert both[0] == both[1]
    assert [score.task for score in both[0]] == ["choices", "open", "texts"]


def test_a_routed_adapter_leaves_retention_exactly_as_it_was(tmp_path):
    base = Retention().measure(BASE, context(suite=suite()))
    routed = Retention().measure(BASE, context(with_adapter("task", tmp_path / "a"), suite=suite()))
    always = Retention().measure(BASE, context(with_adapter("always", tmp_path / "b"), suite=suite()))
    assert routed == base
    assert always != base


def test_progress_is_told_to_the_end():
    told = []
    Retention().measure(BASE, context(suite=suite(), progress=lambda *state: told.append(state)))
    assert ("choices", 3, 3) in told
    assert ("texts", 2, 2) in told
