"""Marks against transformers' own logits, and diversification against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from keeptune.core.example import Example, Message
from keeptune.core.spec import validate
from keeptune.data.encode import encode, encode_prompt
from keeptune.selectors import Context, Selector
from keeptune.selectors._marks import complexity_and_quality
from keeptune.selectors.deita import diversified
from tests.selectors.conftest import directions


def test_a_mark_is_the_mean_of_the_models_distribution_over_six(pocket, talks):
    marks = complexity_and_quality(talks, Context(model=pocket))
    from keeptune.selectors._marks import COMPLEXITY, QUALITY

    for row, [(hard, good)] in zip(talks, marks, strict=True):
        request, answer = (turn.content for turn in row.messages)
        asked = (COMPLEXITY.format(request=request), QUALITY.format(request=request, answer=answer))
        for question, mark in zip(asked, (hard, good), strict=True):
            turn = Message("user", question)
            prompt = list(encode_prompt([turn], pocket.tokenizer))
            firsts = [
                encode(Example("", (turn, Message("assistant", str(k)))), pocket.tokenizer).tokens[len(prompt)]
                for k in range(1, 7)
            ]
            with torch.no_grad():
                chances = pocket.model(torch.tensor([prompt])).logits[0, -1, firsts].double().softmax(-1).numpy()
            assert mark == pytest.approx(float(chances @ np.arange(1, 7)), abs=1e-4)
            assert 1 < mark < 6


def test_turns_are_added_and_the_text_of_a_row_is_never_a_place(pocket):
    rows = [
        Example("two", (Message("user", "Say {answer} and {request}."), Message("assistant", "{request}"),
                        Message("user", "More."), Message("assistant", "Yes."))),
        Example("doc", text="No turns."),
    ]  # fmt: skip
    context = Context(model=pocket, embeddings=np.eye(2))
    marks = complexity_and_quality(rows, context)
    assert [len(own) for own in marks] == [2, 0]
    chosen = validate(Selector, {"name": "deita", "share": 1.0}).select(rows, context)
    assert chosen.indices == (0,)
    assert chosen.scores[0] == pytest.approx(sum(hard * good for hard, good in marks[0]))


@pytest.mark.parametrize("alike", [0.9, 0.5])
def test_what_is_like_something_taken_is_left_out(alike):
    points = directions(60, 4)
    order = np.random.default_rng(0).permutation(60)
    expected: list[int] = []
    for place in order:
        if len(expected) < 20 and all(points[place] @ points[other] < alike for other in expected):
            expected.append(int(place))
    assert diversified(points, order, 20, alike) == expected
