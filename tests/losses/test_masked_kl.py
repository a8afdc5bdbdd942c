"""masked_kl against a slow loop that removes the target and renormalises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeptune.losses.masked_kl import masked_kl
from tests.losses.conftest import V, make_head, slow_logits

ROWS = torch.tensor([1, 2, 5, 8])


@pytest.fixture
def base_hidden(hidden):
    return hidden.detach() + 0.5 * torch.randn(
        hidden.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )


def slow_masked(hidden, base_hidden, targets, head, base_head):
    p_all, p0_all = (torch.softmax(slow_logits(*pair), -1) for pair in ((hidden, head), (base_hidden, base_head)))
    total = torch.zeros((), dtype=torch.float64)
    for row in ROWS.tolist():
        gold = int(targets[row])
        rest = [v for v in range(V) if v != gold]
        q, q0 = p_all[row, rest] / p_all[row, rest].sum(), p0_all[row, rest] / p0_all[row, rest].sum()
        total = total + sum(b * torch.log(b / a) for a, b in zip(q, q0, strict=True))
    return total


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_value_and_gradients_equal_the_slow_loop(hidden, base_hidden, targets, head_settings, chunk):
    head, base_head = make_head(3, trains=True, **head_settings), make_head(4, **head_settings)
    slow = slow_masked(hidden, base_hidden, targets, head, base_head)
    ours = masked_kl(hidden[ROWS], base_hidden[ROWS], targets[ROWS], head, base_head, chunk=chunk)
    torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-11)
    leaves = [hidden, head.weight]
    expected = torch.autograd.grad(0.3 * slow, leaves)
    for gradient, wanted in zip(torch.autograd.grad(0.3 * ours, leaves), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-11)


def test_the_gold_token_is_free(hidden, targets):
    """Its logit moves through a bias; the divergence stays nothing."""
    head, bias = make_head(3), torch.zeros(V, dtype=torch.float64)
    gold = torch.full((len(hidden),), 5)
    bias[5] = 4.0
    raised = replace(head, bias=bias)
    assert masked_kl(hidden, hidden, gold, raised, head).abs() < 1e-12
    assert masked_kl(hidden, hidden, gold + 1, raised, head) > 0.1


def test_drift_of_the_rest_is_punished(hidden, base_hidden, targets):
    head = make_head(3)
    gold = targets.clamp(min=0)
    far = masked_kl(hidden, base_hidden, gold, head, head)
    far.backward()
    assert masked_kl(hidden.detach() - 1e-3 * hidden.grad, base_hidden, gold, head, head) < far
