"""Losses row by row against a slow loop, in float64, under a function that does not know its weights beforehand."""

from __future__ import annotations

import pytest
import torch

from keeptune.losses._row_losses import row_losses
from keeptune.losses.next_token import next_token
from tests.losses.conftest import make_head, slow_logits


@pytest.fixture
def learned(targets):
    return targets.clamp(min=0)


def slow(hidden, targets, head):
    logits = slow_logits(hidden, head)
    return torch.stack([-torch.log(row.exp()[y] / row.exp().sum()) for row, y in zip(logits, targets, strict=True)])


def bent(losses):
    """Neither a sum nor a mean: what a row weighs depends on all the others."""
    return torch.nn.functional.softplus(losses[:4].sum() - losses[4:].sum()) + 0.1 * losses.square().sum()


@pytest.mark.parametrize("chunk", [1, 3, 100, None])
def test_losses_and_gradients_equal_the_slow_loop(hidden, learned, head_settings, chunk):
    head = make_head(3, trains=True, **head_settings)
    leaves = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    ours, theirs = row_losses(hidden, learned, head, chunk=chunk), slow(hidden, learned, head)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(bent(theirs), leaves)
    for found, gradient in zip(torch.autograd.grad(bent(ours), leaves), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-12)


def test_their_sum_is_the_next_token_loss_in_every_dtype(hidden, learned):
    for dtype in (torch.float32, torch.bfloat16):
        head, narrow = make_head(3, dtype=dtype), hidden.detach().to(dtype)
        one, other = narrow.clone().requires_grad_(), narrow.clone().requires_grad_()
        first, second = row_losses(one, learned, head).sum(), next_token(other, learned, head)
        torch.testing.assert_close(first, second)
        first.backward()
        second.backward()
        torch.testing.assert_close(one.grad, other.grad)
        assert first.dtype == torch.float32


def test_a_frozen_head_gets_no_gradient(hidden, learned):
    head = make_head(3)
    bent(row_losses(hidden, learned, head)).backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0
