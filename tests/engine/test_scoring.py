"""Packed log-probabilities against a plain loop over rows and tokens."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import DataError
from keeptune.engine import scoring
from keeptune.engine.native import kernels as native
from keeptune.engine.rows import active
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import greedy_logprobs, token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import LoRA
from tests.engine.adapted import STACKS, adapted, moved, texts
from tests.tiny_models import tiny_model

LENGTHS = [5, 3, 6, 4, 2]


def rows():
    return [Scored(text.tolist(), start) for text, start in zip(texts(LENGTHS), [1, 3, 4, 1, 1], strict=True)]


def slow(model, row, stack):
    """One row at a time, one token at a time, the whole softmax."""
    with active(model, stack), torch.no_grad():
        logits = model(torch.tensor([row.tokens])).logits[0].double()
    return [float(logits[t - 1].log_softmax(0)[row.tokens[t]]) for t in range(row.start, len(row.tokens))]


@pytest.mark.parametrize("batch_tokens", [1, 9, 8192])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_scores_are_those_of_a_plain_loop(family, batch_tokens):
    model = adapted(family)
    stacks = [(stack,) if isinstance(stack, str) else stack for stack in STACKS]
    found = token_logprobs(model, rows(), batch_tokens=batch_tokens, adapters=stacks)
    for row, stack, scores in zip(rows(), stacks, found, strict=True):
        assert len(scores) == len(row.tokens) - row.start
        assert_close(torch.tensor(scores), torch.tensor(slow(model, row, stack)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_rows_that_begin_alike_are_scored_as_if_alone_and_in_their_order(family, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(native, "compiled", lambda _: None)
    instruction, example = list(range(20, 32)), list(range(50, 59))
    own = [text.tolist() for text in texts([5, 3, 6, 4, 2, 7])]
    given = [
        Scored([*instruction, *own[0]], 14),
        Scored([*own[1]], 1),
        Scored([*instruction, *example, *own[2]], 23),
        Scored([*instruction, *own[3]], len(instruction) + 4),
        Scored([*instruction, *example, *own[4]], 22),
        Scored([*instruction, *own[5]], 3),
    ]
    model = tiny_model(family)
    LoRA(rank=3).attach(model, "l")
    moved(model)
    packed = []
    real = scoring.packed_hidden
    monkeypatch.setattr(scoring, "packed_hidden", lambda model, batch: packed.append(batch) or real(model, batch))
    found = token_logprobs(model, given)
    assert sum(len(batch.tokens) for batch in packed) < sum(len(row.tokens) for row in given) - 20
    for row, scores in zip(given, found, strict=True):
        assert len(scores) == len(row.tokens) - row.start
        assert_close(torch.tensor(scores), torch.tensor(slow(model, row, ("l",))), rtol=1e-4, atol=1e-4)


def test_greedy_rows_are_those_that_a_plain_loop_would_write():
    model = adapted()
    with torch.no_grad():
        written = [model(torch.tensor([row.tokens])).logits[0].argmax(dim=1).tolist() for row in rows()]
    likely = [
        Scored([*row.tokens[:-1], own[-2]], len(row.tokens) - 1) for row, own in zip(rows(), written, strict=True)
    ]
    found = greedy_logprobs(model, [*likely, *rows()], batch_tokens=9)
    assert [greedy for _, greedy in found[: len(likely)]] == [True] * len(likely)
    greedy = [
        all(own[t - 1] == row.tokens[t] for t in range(row.start, len(row.tokens)))
        for row, own in zip(rows(), written, strict=True)
    ]
    assert [told for _, told in found[len(likely) :]] == greedy
    assert False in greedy
    sums = torch.tensor([sum(own) for own in token_logprobs(model, rows())])
    assert_close(torch.tensor([value for value, _ in found[len(likely) :]]), sums, rtol=1e-5, atol=1e-5)


def test_a_head_in_many_blocks_scores_alike(monkeypatch):
    model = adapted()
    whole = token_logprobs(model, rows())
    monkeypatch.setattr(scoring, "POSITIONS_AT_ONCE", 2)
    parts = token_logprobs(model, rows())
    for one, other in zip(whole, parts, strict=True):
        assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-5, atol=1e-5)


def test_the_same_call_gives_the_same_numbers():
    model = adapted()
    assert token_logprobs(model, rows(), batch_tokens=9) == token_logprobs(model, rows(), batch_tokens=9)


def test_nothing_to_score_is_no_scores():
    assert token_logprobs(adapted(), []) == []
    assert token_logprobs(adapted(), [Scored([5, 6], 2)]) == [[]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_may_fill_the_learned_positions_and_no_more(dtype):
    model = adapted("gpt2", n_positions=16).to(dtype)
    full, longer = (Scored(text.tolist(), 1) for text in texts([16, 17]))
    assert len(token_logprobs(model, [full], adapters=[()])[0]) == 15
    for ask in (lambda: token_logprobs(model, [full, longer]), lambda: group_logprobs(model, [[longer, longer]])):
        with pytest.raises(DataError, match=r"17 tokens.* 16 learned positions") as refused:
            ask()
        assert refused.value.code == "E-DATA-LONG"
