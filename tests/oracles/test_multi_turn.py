"""A conversation in one masked pass is its answers one by one; an encoder-decoder gets a row for each answer."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.example import Example, Message
from keeptune.data.encode import encode_all
from keeptune.data.encoder import Encoded, Encoder
from keeptune.engine.attention import use_attention
from keeptune.losses.next_token import NextToken
from keeptune.models.load import load
from keeptune.stages._masters import Masters
from keeptune.stages._step import Objective
from tests.tiny_models import tiny_model

SAID = ["What is a mill?", "A place where corn is ground.", "And a ford?", "A shallow place in a river.", "So?", "Yes."]


@pytest.fixture(scope="module")
def tokenizer():
    return load("pocket").tokenizer


def conversation(count=6, silent=()):
    turns = [
        Message("assistant" if n % 2 else "user", SAID[n], {"weight": 0} if n in silent else {}) for n in range(count)
    ]
    return Example("c", tuple(turns), source="task")


def answer_by_answer(model, example, tokenizer):
    """Sum over answers of -log p(answer | all before it), each in a pass of its own of the Hugging Face model."""
    encoder, total, count = Encoder(tokenizer), torch.zeros((), dtype=torch.float64), 0
    for place, turn in enumerate(example.messages):
        if turn.role != "assistant" or turn.extra.get("weight", 1) == 0:
            continue
        row = encoder.encode(Example("t", example.messages[: place + 1]))
        last = max(i for i, learned in enumerate(row.learned) if learned)
        first = last
        while row.learned[first - 1]:
            first -= 1
        tokens = torch.tensor([row.tokens])
        logits = model(input_ids=tokens).logits[0].float()
        chosen = torch.arange(first, last + 1)
        found = torch.log_softmax(logits[chosen - 1], dim=-1)[torch.arange(len(chosen)), tokens[0, chosen]]
        total, count = total - found.double().sum(), count + len(chosen)
    return total, count


@pytest.mark.parametrize("silent", [(), (3,)])
def test_one_masked_pass_is_the_sum_of_passes_per_turn_in_float32(tokenizer, silent):
    alone = tiny_model("llama", vocab_size=len(tokenizer)).float()
    whole = tiny_model("llama", vocab_size=len(tokenizer)).float()
    example = conversation(silent=silent)
    slow, count = answer_by_answer(alone, example, tokenizer)
    (slow / count).backward()
    slow = float(slow.detach())
    row = Encoder(tokenizer).encode(example)
    assert sum(row.learned) == count
    use_attention(whole)
    objective = Objective(
        model=whole, masters=Masters(whole), losses=[NextToken()], stacks={"task": ()}, reference=None,
        micro_batch_tokens=10**6,
    )  # fmt: skip
    result = objective.backward([Encoded("c", "task", row.tokens, row.learned)])
    assert result.loss * count == pytest.approx(slow, rel=2e-6)
    gradients = {name: master.grad for name, master in objective.masters.named}
    for name, parameter in alone.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-4, atol=2e-6)
    assert gradients


def test_an_encoder_decoder_gets_one_target_for_each_answer(tokenizer):
    rows = encode_all([conversation(silent=(3,))], tokenizer, too_long="drop", context=512, kind="encoder_decoder").rows
    assert [row.id for row in rows] == ["c", "c#2"]
    assert [row.answer for row in rows] == [SAID[1], SAID[5]]
    for row, before in zip(rows, (SAID[:1], SAID[:5]), strict=True):
        told = tokenizer.decode([t for t, learned in zip(row.tokens, row.learned, strict=True) if not learned])
        assert all(said in told for said in before)
        assert row.answer in tokenizer.decode(
            [t for t, learned in zip(row.tokens, row.learned, strict=True) if learned]
        )
    one = encode_all([conversation()], tokenizer, too_long="drop", context=512, kind="decoder").rows
    assert len(one) == 1
