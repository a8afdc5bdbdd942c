"""Gradient checkpointing outside the `with` blocks of the forward pass gives the gradients of no checkpointing."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.batch import PackedBatch
from keeptune.engine.book import detach
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import off, rows
from tests.engine.adapted import adapted
from tests.tiny_models import VOCABULARY

TOKENS = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(5))


def by_transformers(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def padded_loss(model, stacks):
    with rows(model, stacks):
        return model(TOKENS, use_cache=False).logits.square().sum()


def packed_loss(model, stacks):
    batch = PackedBatch(
        tokens=TOKENS.flatten(),
        positions=torch.arange(5).repeat(3),
        offsets=[0, 5, 10, 15],
        targets=torch.full((15,), -100),
        weights=None,
        adapters=[None if stack is None else (stack,) for stack in stacks],
        sources=[""] * 3,
        ids=[""] * 3,
    )
    return packed_hidden(model, batch).square().sum()


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("loss", [padded_loss, packed_loss])
def test_rows_left_before_the_backward_pass_do_not_change_it(loss):
    model = adapted().train()
    expected = gradients(model, loss(model, ["l", None, "a"]))
    by_transformers(model)
    for _ in range(2):
        assert same(gradients(model, loss(model, ["l", None, "a"])), expected)
    with_reference = loss(model, ["l", None, "a"])
    with torch.no_grad(), off(model):
        model(TOKENS)
    assert same(gradients(model, with_reference), expected)


def test_two_passes_in_one_backward_are_each_served_as_they_were():
    model = adapted().train()
    expected = gradients(model, padded_loss(model, ["l", None, "a"]) + padded_loss(model, [None, "l", "b"]))
    by_transformers(model)
    found = gradients(model, padded_loss(model, ["l", None, "a"]) + padded_loss(model, [None, "l", "b"]))
    assert same(found, expected)


def test_a_reentrant_checkpoint_is_served_as_it_was():
    model = adapted().train()
    model.enable_input_require_grads()
    expected = gradients(model, padded_loss(model, ["l", None, "a"]))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    assert same(gradients(model, padded_loss(model, ["l", None, "a"])), expected)


def test_without_adapters_the_checkpoints_are_the_models_own():
    model = adapted().train()
    by_transformers(model)
    own = model.model.layers[0]._gradient_checkpointing_func
    padded_loss(model, ["l", None, "a"])
    assert model.model.layers[0]._gradient_checkpointing_func is not own
    for name in "abl":
        detach(model, name)
    assert model.model.layers[0]._gradient_checkpointing_func is own
