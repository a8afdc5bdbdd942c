"""In-context classification: the prompt by hand, the chosen label by a slow loop, what each naming asks for."""

from __future__ import annotations

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.data.encode import encoder_of
from keeptune.evaluations import in_context
from keeptune.evaluations.in_context import InContext, embedded_kinds
from tests.evaluations.tiny_subject import BASE, context, slow_log_likelihood, tiny, tokenizer


def rows(name, labels, start=0):
    turns = [(Message("user", f"{name} {i + start}"), Message("assistant", label)) for i, label in enumerate(labels)]
    return [Example(f"{name}{i}", pair) for i, pair in enumerate(turns)]


DATA = {"own/train": rows("shown", ["red", "blue", "red", "blue"]), "own/test": rows("asked", ["red", "blue"])}


def prompts(monkeypatch, **settings):
    """Every conversation that is asked, and the options."""
    seen = []
    monkeypatch.setattr(in_context.Answers, "rows", lambda self, turns, options: seen.append((turns, list(options))))
    monkeypatch.setattr(in_context, "option_log_likelihoods", lambda subject, groups, *_: [[0.0, 1.0] for _ in groups])
    (score,) = InContext(data="own", **settings).measure(BASE, context(data=DATA))
    return seen, score


def test_every_class_is_shown_as_often_as_asked_for_under_its_name(monkeypatch):
    seen, score = prompts(monkeypatch, shots=2, labels="flipped")
    turns, options = seen[0]
    taught = [(a.content.split()[1], b.content) for a, b in zip(turns[:-1:2], turns[1::2], strict=True)]
    assert sorted(taught) == [("0", "blue"), ("1", "red"), ("2", "blue"), ("3", "red")] or sorted(taught) == sorted(
        (str(i), {"red": "blue", "blue": "red"}[row.target]) for i, row in enumerate(DATA["own/train"])
    )
    assert turns[-1].content == "asked 0"
    assert options == ["red", "blue"]  # of the classes blue, red
    # The second option is the likelier one everywhere: "blue", which flipped stands for "red".
    assert [(item.gold, item.score) for item in score.items] == [("blue", 1.0), ("red", 0.0)]
    assert (score.metric, score.chance) == ("flipped_2_shot", 0.5)


def test_abstract_labels_say_nothing_and_no_shots_show_nothing(monkeypatch):
    seen, score = prompts(monkeypatch, shots=0, labels="abstract")
    assert [turn.content for turn in seen[1][0]] == ["asked 1"]
    assert seen[1][1] == ["A", "B"]
    assert [item.gold for item in score.items] == ["B", "A"]


def test_the_likeliest_label_is_that_of_a_slow_loop():
    (score,) = InContext(shots=1, questions=6).measure(BASE, context())
    model, encoder = tiny(), encoder_of(tokenizer(), None, "decoder")
    shown, asked = embedded_kinds()
    evaluation = InContext(shots=1, questions=6)
    names = {kind: kind for kind in sorted({row.target for row in shown})}
    for item, row in zip(score.items, asked, strict=False):
        turns = [*evaluation._before(shown, names, row, 0), Message("user", row.prompt[0].content)]
        values = {}
        for kind in names:
            encoded = encoder.encode(Example("", (*turns, Message("assistant", kind))))
            start = max(i for i, learned in enumerate(encoded.learned) if not learned) + 1
            values[kind] = slow_log_likelihood(model, encoded.tokens, start)
        assert item.prediction == max(values, key=values.__getitem__)


def test_a_word_is_never_among_its_own_examples():
    shown, asked = embedded_kinds()
    assert not {row.prompt[0].content for row in shown} & {row.prompt[0].content for row in asked}


def test_too_few_rows_to_show_are_refused_in_words():
    with pytest.raises(RecipeError, match="too few labelled rows") as refused:
        InContext(data="own", shots=3).measure(BASE, context(data=DATA))
    assert refused.value.code == "E-RECIPE-METRIC"
