"""Pseudo-log-likelihood against a loop: one stock forward pass for each masked token."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.example import Message
from keeptune.engine.pseudo_scoring import pseudo_logprobs
from keeptune.engine.scored import Scored
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._likelihood import Answers, option_log_likelihoods
from keeptune.models.load import load
from tests.engine.test_pairs import CLS, MASK, SEP, folder_of


@pytest.fixture(params=["bert", "roberta", "deberta-v2"])
def model(tmp_path, request):
    return load(folder_of(tmp_path / "base", request.param), dtype="float32", device="cpu").model


def slow(model, tokens, start):
    total = 0.0
    for place in range(start, len(tokens) - 1):
        shown = torch.tensor([[*tokens[:place], MASK, *tokens[place + 1 :]]])
        with torch.no_grad():
            total += float(model(input_ids=shown).logits[0, place].log_softmax(-1)[tokens[place]])
    return total


def test_every_scored_token_is_masked_in_its_turn(model):
    rows = [Scored((CLS, 3, 4, 5, SEP), 2), Scored((CLS, 6, SEP), 1), Scored((CLS, 7, 8, 9, 10, 11, SEP), 3)]
    for batch_tokens in (8192, 7):
        found = pseudo_logprobs(model, rows, batch_tokens)
        for value, row in zip(found, rows, strict=True):
            assert value == pytest.approx(slow(model, list(row.tokens), row.start), abs=1e-4)


def test_options_are_ranked_after_their_prompt(model):
    tokenizer = model.loaded.tokenizer
    rows = Answers(tokenizer, "encoder").rows([Message("user", "w3 w4")], ["w5", "w6 w7"])
    assert [(list(row.tokens), row.start) for row in rows] == [([CLS, 3, 4, 5, SEP], 3), ([CLS, 3, 4, 6, 7, SEP], 3)]
    subject = Subject(model, tokenizer)
    context = Context(subject=lambda checkpoint: subject)
    (values,) = option_log_likelihoods(subject, [rows], context, "what")
    assert values == pytest.approx([slow(model, list(row.tokens), row.start) for row in rows], abs=1e-4)
