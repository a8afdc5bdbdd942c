"""Packed rows against plain separate forward passes of transformers' eager attention, for every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.data.encoder import Encoded
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import IGNORED, pack
from keeptune.engine.head import head_logits, head_of
from keeptune.engine.packed import packed_hidden
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

TOLERANCE = 1e-5
# Beyond every window (5, 9), on both sides of the longrope context (12); neighbours of equal length share a call.
LENGTHS = [7, 3, 20, 20, 1, 12, 12, 5]


def rows_of(lengths: list[int], seed: int = 0) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, length in enumerate(lengths):
        tokens = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        learned = tuple(index >= length // 2 for index in range(length))
        rows.append(Encoded(f"row-{number}", "task", tokens, learned))
    return rows


def packed_logits(model, rows) -> torch.Tensor:
    return head_logits(model, packed_hidden(model, pack(rows)))


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_equal_separate_forwards_of_the_reference(name):
    rows = rows_of(LENGTHS)
    reference = tiny_model(name)
    with torch.no_grad():
        alone = torch.cat([reference(torch.tensor([row.tokens])).logits[0] for row in rows])
        packed = packed_logits(tiny_model(name), rows)
    assert packed.dtype == torch.float32
    assert alone.abs().max() > 0.1
    torch.testing.assert_close(packed, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_row_reads_another(name):
    model = tiny_model(name)
    rows = rows_of(LENGTHS)
    changed = list(rows)
    changed[2] = rows_of(LENGTHS, seed=1)[2]
    with torch.no_grad():
        before, after = packed_logits(model, rows), packed_logits(model, changed)
    own = pack(rows).segment_of() == 2
    assert torch.equal(before[~own], after[~own])
    assert not torch.equal(before[own], after[own])


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_those_of_separate_forwards(name):
    rows = rows_of([6, 13, 13])
    reference, model = tiny_model(name), tiny_model(name)
    torch.cat([reference(torch.tensor([row.tokens])).logits[0] for row in rows]).square().mean().backward()
    packed_logits(model, rows).square().mean().backward()
    for (path, expected), (_, got) in zip(reference.named_parameters(), model.named_parameters(), strict=True):
        scale = max(expected.grad.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            got.grad, expected.grad, rtol=0, atol=2e-5 * scale, msg=lambda text, p=path: p + text
        )


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3, longrope, window"])
def test_gradient_checkpointing_keeps_rows_apart(name):
    rows = rows_of([6, 13, 13])
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(name)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        packed_logits(model, rows).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_dynamic_rope_beyond_its_context_is_refused_by_name():
    model = tiny_model("llama, dynamic rope")
    with pytest.raises(PlanError) as caught:
        packed_hidden(model, pack(rows_of([5, 64])))
    assert caught.value.code == "E-MODEL-ROPE"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_gives_the_models_logits(name):
    model = tiny_model(name)
    tokens = torch.tensor([rows_of([9])[0].tokens])
    with torch.no_grad():
        body = model.base_model(tokens).last_hidden_state[0]
        expected = model(tokens).logits[0]
        assert torch.equal(head_logits(model, body), expected)
        chosen = torch.tensor([1, 4])
        torch.testing.assert_close(head_logits(model, body[chosen]), expected[chosen], rtol=0, atol=1e-6)
    assert head_of(model).weight.shape == (VOCABULARY, 32)


def test_using_the_attention_again_changes_nothing():
    model = tiny_model("llama")
    use_attention(model)
    use_attention(model)
    assert model.config._attn_implementation == "keeptune"


def test_targets_are_shifted_within_each_row():
    batch = pack(rows_of(LENGTHS))
    expected = []
    for row in rows_of(LENGTHS):
        for position in range(len(row.tokens)):
            last = position + 1 == len(row.tokens)
            expected.append(IGNORED if last or not row.learned[position + 1] else row.tokens[position + 1])
    assert batch.targets.tolist() == expected
    assert batch.learned == sum(target != IGNORED for target in expected)


def test_positions_restart_at_each_row():
    batch = pack(rows_of([3, 1, 2]))
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.offsets == [0, 3, 4, 6]
    assert batch.segment_of().tolist() == [0, 0, 0, 1, 2, 2]


def test_rows_end_with_the_last_position_that_is_read():
    """Of a row that others continue all stays; where nobody reads, one token does."""
    batch = replace(pack(rows_of([5, 4, 3, 6])), parents=[-1, 0, -1, -1], weights=torch.arange(18.0))
    ended = batch.read_at(torch.tensor([5, 7, 12, 13])).until_read()
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13]
    assert ended.offsets == [0, 5, 8, 9, 11]
    assert ended.reads.tolist() == [5, 7, 9, 10]
    for name in ("tokens", "positions", "targets", "weights"):
        assert torch.equal(getattr(ended, name), getattr(batch, name)[kept])
    assert ended.until_read() is ended
    assert batch.until_read() is batch, "who reads everywhere reads the end"


def test_selected_rows_are_the_batch_of_those_rows():
    rows = rows_of(LENGTHS)
    whole = pack(rows, adapters=[("a",), None, ("b",), None, None, None, None, ("a", "b")])
    part, index = whole.select([5, 0])
    assert torch.equal(part.tokens, pack([rows[5], rows[0]]).tokens)
    assert torch.equal(part.targets, pack([rows[5], rows[0]]).targets)
    assert torch.equal(whole.tokens[index], part.tokens)
    assert part.offsets == [0, 12, 19]
    assert part.adapters == [None, ("a",)]
    assert part.ids == ["row-5", "row-0"]
