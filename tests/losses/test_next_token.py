"""next_token against a slow loop over positions and vocabulary, in float64."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.head import Head
from keeptune.losses import _head_rows
from keeptune.losses.next_token import next_token
from tests.losses.conftest import V, make_head, slow_logits


def slow_loss(hidden, targets, head, weights=None):
    logits = slow_logits(hidden, head)
    total = torch.zeros((), dtype=torch.float64)
    for t, target in enumerate(targets.tolist()):
        if target != -100:
            probability = logits[t].exp()[target] / logits[t].exp().sum()
            total = total - (1 if weights is None else weights[t]) * torch.log(probability)
    return total


@pytest.mark.parametrize("chunk", [1, 3, 100, None])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_equal_the_slow_loop(hidden, targets, head_settings, chunk, weighted):
    head = make_head(3, trains=True, **head_settings)
    weights = torch.linspace(0.1, 2.0, len(targets), dtype=torch.float64) if weighted else None
    leaves = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    slow = torch.autograd.grad(0.7 * slow_loss(hidden, targets, head, weights), leaves)
    loss = next_token(hidden, targets, head, weights, chunk=chunk)
    torch.testing.assert_close(loss, slow_loss(hidden, targets, head, weights), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(0.7 * loss, leaves), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_positions_without_a_target_get_no_gradient(hidden, targets):
    next_token(hidden, targets, make_head(3)).backward()
    assert torch.equal(hidden.grad[targets == -100], torch.zeros_like(hidden.grad[targets == -100]))
    assert (hidden.grad[targets != -100].abs().sum(1) > 0).all()


def test_a_frozen_head_gets_no_gradient(hidden, targets):
    head = make_head(3)
    next_token(hidden, targets, head).backward()
    assert head.weight.grad is None


def test_a_frozen_model_under_a_training_head_still_trains_it(hidden, targets):
    head = make_head(3, trains=True)
    next_token(hidden.detach(), targets, head).backward()
    assert head.weight.grad.abs().sum() > 0


def test_nothing_supervised_is_a_zero_sum_with_zero_gradient(hidden, targets):
    loss = next_token(hidden, torch.full_like(targets, -100), make_head(3))
    loss.backward()
    assert loss.item() == 0.0
    assert not hidden.grad.any()


def test_one_step_down_the_gradient_lowers_the_loss(hidden, targets):
    head = make_head(3)
    loss = next_token(hidden, targets, head)
    loss.backward()
    assert next_token(hidden - 1e-3 * hidden.grad, targets, head) < loss


def test_bfloat16_rows_give_the_float64_loss_within_their_rounding(hidden, targets):
    head = make_head(3)
    narrow = make_head(3, dtype=torch.bfloat16)
    rough = hidden.detach().bfloat16().requires_grad_()
    loss = next_token(rough, targets, narrow)
    exact = next_token(hidden, targets, head)
    (loss / 7).backward()
    (exact / 7).backward()
    assert loss.dtype == torch.float32
    assert rough.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), exact, rtol=2e-2, atol=0)
    torch.testing.assert_close(rough.grad.double(), hidden.grad, rtol=0.1, atol=2e-2)


def test_no_more_rows_of_logits_exist_than_one_chunk(hidden, targets, monkeypatch):
    seen, blocks = [], set()
    original = Head.product

    def counted(head, h, into=None):
        found = original(head, h, into)
        seen.append(len(h))
        blocks.add(found.data_ptr())
        return found

    monkeypatch.setattr(Head, "product", counted)
    next_token(hidden, targets, make_head(3), chunk=3).backward()
    assert seen == [3, 3, 1]
    assert len(blocks) == 1
    seen.clear()
    monkeypatch.setattr(_head_rows, "LOGITS_BYTES", 2 * V * 8)
    next_token(hidden, targets, make_head(3))
    assert seen == [2, 2, 2, 1]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_how_many_rows_the_cache_holds_changes_nothing(hidden, targets, head_settings, rows, monkeypatch):
    head = make_head(3, trains=True, **head_settings)
    leaves = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    whole = next_token(hidden, targets, head)
    expected = torch.autograd.grad(whole, leaves)
    monkeypatch.setattr(_head_rows, "LOGITS_IN_CACHE", rows * V)
    few = next_token(hidden, targets, head)
    torch.testing.assert_close(few, whole, rtol=1e-13, atol=1e-13)
    for ours, wanted in zip(torch.autograd.grad(few, leaves), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)
