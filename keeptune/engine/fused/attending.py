"""Rotary embedding and attention of a layer as one function, for training by kernels of a processor.

    q, k turned (`rotation`)        output = softmax(c q k') v of each row over its past (`causal_rows`)

They are the kernels of those two files, and the bits are theirs; in one function they wait for nobody between them, and
no graph of views is built around them.

Shapes: query (T, H K) or (T, H, K), key and value (T, G K) or (T, G, K), with K the width of a head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.causal_rows import Spread, spread_of
from keeptune.engine.kernel_contract import ProcessorKernels, of_processor
from keeptune.engine.kernels import serving
from keeptune.engine.learning import learns
from keeptune.engine.segments import Segments


class Turning(NamedTuple):
    """How a layer turns and attends.

    Attributes:
        kernels: that do it.
        spread: the rows.
        cos: (T, 1, K / 2), of each pair's angle.
        sin: (T, 1, K / 2).
        scale: c.
        alone: each row stands for itself, so that nothing but a kernel reads what a kernel gives.
    """

    kernels: ProcessorKernels
    spread: Spread
    cos: Tensor
    sin: Tensor
    scale: float
    alone: bool

    def together(self) -> AbstractContextManager[None]:
        """Inside, kernels wait for each other."""
        return self.kernels.together() if self.alone else nullcontext()


def turning(
    states: tuple[Tensor, Tensor, Tensor], width: int, packed: Segments, cos: Tensor, sin: Tensor, scale: float
) -> Turning | None:
    """The kernels that turn and attend these queries, keys and values, if the pass trains and there are any."""
    kernels = of_processor(serving(*states)) if learns() else None
    if kernels is None or not kernels.attends(width) or not cos.dtype == sin.dtype == states[0].dtype:
        return None
    spread = spread_of(packed, states[0][0].numel() // width)
    return Turning(kernels, spread, cos, sin, scale, packed.parents is None)


def attended(query: Tensor, key: Tensor, value: Tensor, by: Turning) -> Tensor:
    """What the heads give, (T, H K)."""
    output: Tensor = _Attended.apply(query, key, value, by)  # type: ignore[no-untyped-call]
    return output


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, by: Turning) -> Tensor:
        tokens, half = len(query), by.cos.shape[-1]
        q, k, v = (x.view(tokens, -1, 2 * half) for x in (query, key, value))
        with by.together():
            q, k = (by.kernels.rotate(x, by.cos, by.sin) for x in (q, k))
            seen = by.spread.seen(k), by.spread.seen(v)
            output, log_sums = by.kernels.attention(q, *seen, by.spread.offsets, by.scale)
        ctx.by, ctx.shapes = by, (query.shape, key.shape, value.shape)
        ctx.save_for_backward(q, k, v, log_sums)
        return output.view(tokens, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by: Turning = ctx.by
        q, k, v, log_sums = ctx.saved_tensors
        gradient = gradient.contiguous().view(q.shape)
        seen = by.spread.seen(k), by.spread.seen(v)
        with by.together():
            dq, dk, dv = by.kernels.attention_back(q, *seen, gradient, log_sums, by.spread.offsets, by.scale)
            dk, dv = by.spread.gathered(dk), by.spread.gathered(dv)
            dq, dk = (by.kernels.rotate(x, by.cos, by.sin, back=True) for x in (dq, dk))
        found = zip((dq, dk, dv), ctx.shapes, strict=True)
        return *(slope.view(shape) for slope, shape in found), None
