"""Each kernel beside its formula in float64, on numbers of its own: code made on this machine proves itself first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from keeptune.engine.native.kernels import Kernels

CLOSE = 2**-7
"""Of the norm of what is expected; a bfloat16 is within 2^-8, and some values are rounded twice."""


def agree(kernels: Kernels) -> bool:
    """Whether all of them do; asked for the first time by whoever computes, with gradients or without."""
    draw = torch.Generator().manual_seed(0)
    trials = (_norm, _gated, _rotation, _attention, _next_token)
    with torch.inference_mode(mode=False), torch.enable_grad():
        return all(near for trial in trials for near in trial(kernels, draw))


def _drawn(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw).bfloat16()


def _near(got: Tensor, expected: Tensor) -> bool:
    return bool((got.double() - expected).norm() <= CLOSE * expected.norm())


def _slopes(value: Tensor, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, gradient.double())


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [x.double().requires_grad_() for x in tensors]


def _norm(kernels: Kernels, draw: torch.Generator) -> list[bool]:
    weight, h, g = _drawn(draw, 40), _drawn(draw, 3, 40), _drawn(draw, 3, 40)
    (wide,) = _wide(h)
    with torch.enable_grad():
        formula = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    value, (slope,) = kernels.norm_back(g, h, weight, 1e-5)
    assert value is not None
    return [_near(value, formula), _near(slope, _slopes(formula, g, wide)[0])]


def _gated(kernels: Kernels, draw: torch.Generator) -> list[bool]:
    gate, up, g = _drawn(draw, 3, 40), _drawn(draw, 3, 40), _drawn(draw, 3, 40)
    wide = _wide(gate, up)
    with torch.enable_grad():
        formula = functional.silu(wide[0]) * wide[1]
    value, slopes = kernels.gated_back(g, gate, up)
    assert value is not None
    expected = _slopes(formula, g, *wide)
    return [_near(value, formula), *(_near(*pair) for pair in zip(slopes, expected, strict=True))]


def _rotation(kernels: Kernels, draw: torch.Generator) -> list[bool]:
    x, angles = _drawn(draw, 3, 2, 40), torch.randn(3, 1, 20, generator=draw)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    a, b = x.double().chunk(2, -1)
    expected = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    turned = kernels.rotate(x, cos, sin)
    return [_near(turned, expected), _near(kernels.rotate(turned, cos, sin, back=True), x.double())]


def _attention(kernels: Kernels, draw: torch.Generator) -> list[bool]:
    lengths, scale = (7, 1, 61), 0.3
    total = sum(lengths)
    q, g = _drawn(draw, total, 4, 32), _drawn(draw, total, 4, 32)
    k, v = _drawn(draw, total, 2, 32), _drawn(draw, total, 2, 32)
    wide, outputs, sums, at = _wide(q, k, v), [], [], 0
    with torch.enable_grad():
        for length in lengths:
            heads = [x[at : at + length].transpose(0, 1) for x in wide]
            keys, values = (x.repeat_interleave(2, 0) for x in heads[1:])
            scores = scale * heads[0] @ keys.transpose(1, 2)
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
            sums.append(scores.logsumexp(-1).T)
            at += length
        formula = torch.cat(outputs)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    found = kernels.attention_back(q, k, v, g, torch.cat(sums).float().contiguous(), offsets, scale)
    return [_near(*pair) for pair in zip(found, _slopes(formula, g, *wide), strict=True)]


def _next_token(kernels: Kernels, draw: torch.Generator) -> list[bool]:
    logits, weights = 3 * _drawn(draw, 4, 50), torch.rand(4, generator=draw)
    targets = torch.randint(50, (4,), generator=draw)
    (wide,) = _wide(logits)
    with torch.enable_grad():
        formula = weights * functional.cross_entropy(wide, targets, reduction="none")
    (expected,) = torch.autograd.grad(formula.sum(), wide)
    losses = kernels.next_token(logits, targets, weights)
    return [_near(losses, formula), _near(logits, expected)]
