"""A head and rows small enough for a slow loop, in float64."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.head import Head

V, D, T = 13, 6, 11


def make_head(seed, *, trains=False, soft_cap=None, scale=1.0, bias=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype)
    bias_V = torch.randn(V, generator=generator, dtype=torch.float64).to(dtype) if bias else None
    for tensor in (weight, bias_V):
        if tensor is not None:
            tensor.requires_grad_(trains)
    return Head(weight, bias_V, soft_cap=soft_cap, scale=scale)


def slow_logits(hidden, head):
    """Logits by two Python loops; the head of every family as its paper writes it."""
    rows = []
    for h in hidden:
        row = []
        for v in range(head.weight.shape[0]):
            z = (head.weight[v] * h).sum() + (0 if head.bias is None else head.bias[v])
            z = z * head.scale
            row.append(z if head.soft_cap is None else head.soft_cap * torch.tanh(z / head.soft_cap))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.fixture(params=["plain", "bias", "soft_cap", "scale", "all"])
def head_settings(request):
    return {
        "plain": {},
        "bias": {"bias": True},
        "soft_cap": {"soft_cap": 3.0},
        "scale": {"scale": 0.25},
        "all": {"bias": True, "soft_cap": 2.0, "scale": 0.5},
    }[request.param]


@pytest.fixture
def hidden():
    return torch.randn(T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


@pytest.fixture
def targets():
    targets = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(2))
    targets[[0, 3, 4, 10]] = -100
    return targets
