"""Each kernel beside its formula in float64, on numbers of its own: code made on this machine proves itself first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from keeptune.engine.kernel_contract import Kernels, ProcessorKernels, of_processor

CLOSE = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 2**-20}
"""Of the norm of what is expected; a number is within half a unit of it, and some are rounded more than once."""

Compared = Iterator[tuple[Tensor, Tensor]]
Drawn = Callable[..., Tensor]


def agree(kernels: Kernels, dtype: torch.dtype, device: torch.device | None = None) -> bool:
    """Whether all of them do; asked for the first time by whoever computes, with gradients or without.

    Args:
        kernels: of any device.
        dtype: that they read.
        device: where; a processor unless it is said.
    """
    draw = torch.Generator().manual_seed(0)
    drawn = partial(_drawn, draw, dtype, device)
    with torch.inference_mode(mode=False), torch.enable_grad():
        pairs = [pair for trial in (_norm, _gated, _rotation, _next_token) for pair in trial(kernels, drawn)]
        if own := of_processor(kernels):
            pairs += [*_attention(own, drawn), *_low_rank(own, drawn)]
            pairs += _summed(own, drawn) if own.multiplies else []
    return all((got.double() - expected).norm() <= CLOSE[dtype] * expected.norm() for got, expected in pairs)


def _drawn(draw: torch.Generator, dtype: torch.dtype, device: torch.device | None, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw).to(device, dtype)


def _slopes(value: Tensor, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, gradient.double())


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [x.double().requires_grad_() for x in tensors]


def _norm(kernels: Kernels, drawn: Drawn) -> Compared:
    weight, h, g = (drawn(*shape) for shape in ((40,), (3, 40), (3, 40)))
    (wide,) = _wide(h)
    formula = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    value, (slope,) = kernels.norm_back(g, h, weight, 1e-5)
    assert value is not None
    yield value, formula
    yield kernels.norm(h, weight, 1e-5), formula
    (expected,) = _slopes(formula, g, wide)
    yield slope, expected
    yield kernels.norm_back(g, h, weight, 1e-5, onto=g).gradients[0], g.double() + expected


def _gated(kernels: Kernels, drawn: Drawn) -> Compared:
    gate, up, g = (drawn(3, 40) for _ in range(3))
    wide = _wide(gate, up)
    formula = functional.silu(wide[0]) * wide[1]
    value, slopes = kernels.gated_back(g, gate, up)
    assert value is not None
    yield value, formula
    yield kernels.gated(gate, up), formula
    yield from zip(slopes, _slopes(formula, g, *wide), strict=True)


def _rotation(kernels: Kernels, drawn: Drawn) -> Compared:
    x, angles = drawn(3, 2, 40), drawn(3, 1, 20).float()
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.double().chunk(2, -1)
    turned = kernels.rotate(x, cos, sin)
    yield turned, torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    yield kernels.rotate(turned, cos, sin, back=True), x.double()


def _attention(kernels: ProcessorKernels, drawn: Drawn) -> Compared:
    lengths, pasts, scale = [7, 1, 61], [0, 50, 9], 0.3
    keys_of = [past + length for past, length in zip(pasts, lengths, strict=True)]
    q, g = (drawn(sum(lengths), 4, 32) for _ in range(2))
    k, v = (drawn(sum(keys_of), 2, 32) for _ in range(2))
    wide, outputs, sums = _wide(q, k, v), [], []
    parts = zip(torch.split(wide[0], lengths), *(torch.split(x, keys_of) for x in wide[1:]), pasts, strict=True)
    for query, key, value, past in parts:
        keys, values = (x.transpose(0, 1).repeat_interleave(2, 0) for x in (key, value))
        scores = scale * query.transpose(0, 1) @ keys.transpose(1, 2)
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(past + 1).bool(), -torch.inf)
        outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
        sums.append(scores.logsumexp(-1).T)
    own, seen = (torch.tensor([0, *of]).cumsum(0) for of in (lengths, keys_of))
    yield from zip(kernels.attention(q, k, v, (own, seen), scale), (torch.cat(outputs), torch.cat(sums)), strict=True)
    found = kernels.attention_back(q, k, v, g, torch.cat(sums).float().contiguous(), (own, seen), scale)
    yield from zip(found, _slopes(torch.cat(outputs), g, *wide), strict=True)


def _low_rank(kernels: ProcessorKernels, drawn: Drawn) -> Compared:
    x, h, A, B = (drawn(*shape) for shape in ((4, 40), (4, 600), (2, 3, 40), (2, 3, 600)))
    sets, scale = torch.tensor([1, -1, 0, 1]), drawn(2, 3).float()
    inner = torch.einsum("nri,ni->nr", A[sets].double(), x.double()) * scale[sets].double()
    change = torch.einsum("nro,nr->no", B[sets].double(), inner)
    yield kernels.low_rank(x, h, A, B, scale, sets), h.double() + change * (sets >= 0)[:, None]


def _summed(kernels: ProcessorKernels, drawn: Drawn) -> Compared:
    """Of few rows, whose sums are put down between windows, and of more; no register divides rows or columns."""
    g, W, v, A = (drawn(*shape) for shape in ((37, 1100), (1100, 150), (37, 7), (7, 150)))
    through = g.double() @ W.double() + v.double() @ A.double()
    yield kernels.summed((g, W), (v, A)), through
    x, weight, bias, u, B = (drawn(*shape) for shape in ((53, 1100), (51, 1100), (51,), (53, 4), (51, 4)))
    value = bias.double() + x.double() @ weight.double().T + u.double() @ B.double().T
    yield kernels.summed((x, weight.T), (u, B.T), onto=bias), value
    narrow = 0.5 * v.double().T @ g.double()
    for into in (None, torch.empty(7, 1100), torch.empty(1100, 7).T):
        yield kernels.summed((v.T, g), into=into, scale=0.5), narrow
    yield kernels.summed((A.T, v.T), onto=W[:150, :37]), W[:150, :37].double() + A.double().T @ v.double().T


def _next_token(kernels: Kernels, drawn: Drawn) -> Compared:
    logits, weights = 3 * drawn(4, 5_000), drawn(4).float().abs()
    targets = torch.tensor([0, 30, 4_100, 4_999], device=logits.device)
    (wide,) = _wide(logits)
    formula = weights * functional.cross_entropy(wide, targets, reduction="none")
    (expected,) = torch.autograd.grad(formula.sum(), wide)
    yield kernels.next_token(logits, targets, weights), formula
    yield logits, expected
