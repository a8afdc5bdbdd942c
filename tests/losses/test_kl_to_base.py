"""kl_to_base against a slow loop: sign, shift, mask, direction, gradients."""

from __future__ import annotations

import pytest
import torch

from keeptune.losses.kl_to_base import kl_to_base
from tests.losses.conftest import make_head, slow_logits


@pytest.fixture
def base_hidden(hidden):
    return hidden.detach() + 0.5 * torch.randn(
        hidden.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )


ROWS = torch.tensor([1, 2, 5, 8])


def slow_kl(hidden, base_hidden, head, base_head, direction):
    """sum_v a_v log(a_v / b_v), one row and one word at a time."""
    p_all, p0_all = (torch.softmax(slow_logits(*pair), -1) for pair in ((hidden, head), (base_hidden, base_head)))
    total = torch.zeros((), dtype=torch.float64)
    for row in ROWS.tolist():
        a, b = (p0_all[row], p_all[row]) if direction == "forward" else (p_all[row], p0_all[row])
        for v in range(len(a)):
            total = total + a[v] * torch.log(a[v] / b[v])
    return total


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_value_and_gradients_equal_the_slow_loop(hidden, base_hidden, head_settings, direction, chunk):
    head, base_head = make_head(3, trains=True, **head_settings), make_head(4, **head_settings)
    leaves = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    slow = slow_kl(hidden, base_hidden, head, base_head, direction)
    ours = kl_to_base(hidden, base_hidden, ROWS, head, base_head, direction=direction, chunk=chunk)
    torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-11)
    expected = torch.autograd.grad(0.3 * slow, leaves)
    for gradient, wanted in zip(torch.autograd.grad(0.3 * ours, leaves), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_base_itself_has_no_divergence_and_no_gradient(hidden, direction):
    head = make_head(3)
    loss = kl_to_base(hidden, hidden, None, head, head, direction=direction)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert hidden.grad.abs().max() < 1e-12


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_drift_is_punished_not_rewarded(hidden, base_hidden, direction):
    head = make_head(3)
    far = kl_to_base(hidden, base_hidden, None, head, head, direction=direction)
    near = kl_to_base(0.5 * hidden + 0.5 * base_hidden, base_hidden, None, head, head, direction=direction)
    assert far > near > 0
    far.backward()
    stepped = hidden.detach() - 1e-3 * hidden.grad
    assert kl_to_base(stepped, base_hidden, None, head, head, direction=direction) < far


def test_the_two_directions_differ(hidden, base_hidden):
    head = make_head(3)
    forward, reverse = (
        kl_to_base(hidden, base_hidden, None, head, head, direction=way) for way in ("forward", "reverse")
    )
    assert abs(forward - reverse) > 1e-3


def test_rows_outside_the_mask_neither_count_nor_learn(hidden, base_hidden):
    head = make_head(3)
    kl_to_base(hidden, base_hidden, ROWS, head, head).backward()
    outside = [row for row in range(len(hidden)) if row not in ROWS.tolist()]
    assert not hidden.grad[outside].any()
    moved = base_hidden.clone()
    moved[outside] += 1.0
    assert torch.equal(kl_to_base(hidden, base_hidden, ROWS, head, head), kl_to_base(hidden, moved, ROWS, head, head))


def test_a_row_is_compared_with_the_base_at_the_same_position(hidden):
    """Against the base shifted by one position the divergence of equal models is not zero."""
    head = make_head(3)
    assert kl_to_base(hidden[1:], hidden[1:], None, head, head).abs() < 1e-12
    assert kl_to_base(hidden[1:], hidden[:-1], None, head, head) > 0.1


def test_no_gradient_flows_to_the_base(hidden, base_hidden):
    base_hidden.requires_grad_()
    base_head = make_head(4, trains=True)
    kl_to_base(hidden, base_hidden, None, make_head(3), base_head).backward()
    assert base_hidden.grad is None
    assert base_head.weight.grad is None
