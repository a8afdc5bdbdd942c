"""Each kernel beside its formula in float64, on numbers of its own: code made on this machine proves itself first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from keeptune.engine.native.kernels import Kernels

CLOSE = {torch.bfloat16: 2**-7, torch.float32: 2**-20}
"""Of the norm of what is expected; a number is within 2^-8 or 2^-24 of it, and some are rounded more than once."""

Compared = Iterator[tuple[Tensor, Tensor]]


def agree(kernels: Kernels) -> bool:
    """Whether all of them do; asked for the first time by whoever computes, with gradients or without."""
    draw = torch.Generator().manual_seed(0)
    trials = (_norm, _gated, _rotation, _attention, _next_token)
    close = CLOSE[kernels.dtype]
    with torch.inference_mode(mode=False), torch.enable_grad():
        pairs = [pair for trial in trials for pair in trial(kernels, draw)]
    return all((got.double() - expected).norm() <= close * expected.norm() for got, expected in pairs)


def _drawn(kernels: Kernels, draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw).to(kernels.dtype)


def _slopes(value: Tensor, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, gradient.double())


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [x.double().requires_grad_() for x in tensors]


def _norm(kernels: Kernels, draw: torch.Generator) -> Compared:
    weight, h, g = (_drawn(kernels, draw, *shape) for shape in ((40,), (3, 40), (3, 40)))
    (wide,) = _wide(h)
    formula = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    value, (slope,) = kernels.norm_back(g, h, weight, 1e-5)
    assert value is not None
    yield value, formula
    yield slope, _slopes(formula, g, wide)[0]


def _gated(kernels: Kernels, draw: torch.Generator) -> Compared:
    gate, up, g = (_drawn(kernels, draw, 3, 40) for _ in range(3))
    wide = _wide(gate, up)
    formula = functional.silu(wide[0]) * wide[1]
    value, slopes = kernels.gated_back(g, gate, up)
    assert value is not None
    yield value, formula
    yield from zip(slopes, _slopes(formula, g, *wide), strict=True)


def _rotation(kernels: Kernels, draw: torch.Generator) -> Compared:
    x, angles = _drawn(kernels, draw, 3, 2, 40), torch.randn(3, 1, 20, generator=draw)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.double().chunk(2, -1)
    turned = kernels.rotate(x, cos, sin)
    yield turned, torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    yield kernels.rotate(turned, cos, sin, back=True), x.double()


def _attention(kernels: Kernels, draw: torch.Generator) -> Compared:
    lengths, scale = (7, 1, 61), 0.3
    total = sum(lengths)
    q, g = (_drawn(kernels, draw, total, 4, 32) for _ in range(2))
    k, v = (_drawn(kernels, draw, total, 2, 32) for _ in range(2))
    wide, outputs, sums, at = _wide(q, k, v), [], [], 0
    for length in lengths:
        heads = [x[at : at + length].transpose(0, 1) for x in wide]
        keys, values = (x.repeat_interleave(2, 0) for x in heads[1:])
        scores = scale * heads[0] @ keys.transpose(1, 2)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
        sums.append(scores.logsumexp(-1).T)
        at += length
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    found = kernels.attention_back(q, k, v, g, torch.cat(sums).float().contiguous(), offsets, scale)
    yield from zip(found, _slopes(torch.cat(outputs), g, *wide), strict=True)


def _next_token(kernels: Kernels, draw: torch.Generator) -> Compared:
    logits, weights = 3 * _drawn(kernels, draw, 4, 50), torch.rand(4, generator=draw)
    targets = torch.randint(50, (4,), generator=draw)
    (wide,) = _wide(logits)
    formula = weights * functional.cross_entropy(wide, targets, reduction="none")
    (expected,) = torch.autograd.grad(formula.sum(), wide)
    yield kernels.next_token(logits, targets, weights), formula
    yield logits, expected
