"""Causal attention of packed rows on a processor: SDPA's kernel forward, plain matrix products backward.

    P = softmax(s q k'),   D = rowsum(dO O),   dS = s P (dO v' - D)
    dq = dS k,   dk = dS' q,   dv = P' dO                            (Dao et al. 2022, arXiv:2205.14135, algorithm 4)

The gradient kernel of SDPA is slow in bfloat16 on a processor. Here queries go in blocks, and a block meets
the keys up to its own end only: half of the products are never made, and memory stays at a block by a row. The query
heads that share a key head lie one after another in one matrix, so keys and values are never repeated and the sum over
those heads is part of a product. The forward pass does not depend on whether gradients are taken.

Shapes: T tokens of all rows, H query heads, G key heads, S = H / G, L tokens of a row, Q of a block, K head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from keeptune.engine.attention import Segments

BLOCK = 128


def suits(query: Tensor, packed: Segments, window: int | None, dropout: float) -> bool:
    """Whether this form is right for these rows, and the faster one; `query` is (T, H, K)."""
    whole = window is None or packed.longest <= window
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and whole and dropout == 0.0


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, packed: Segments, window: int | None, scale: float | None
) -> Tensor:
    """softmax(scale q k') v of each row over its own past; no row is longer than `window`.

    Args:
        query: (T, H, K).
        key: (T, G, K).
        value: (T, G, K).
        packed: the rows.
        window: of the layer.
        scale: factor on the scores; K ** -0.5 when None.

    Returns:
        (T, H, K).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = _AttendRows.apply(query, key, value, packed.offsets, scale)  # type: ignore[no-untyped-call]
    return output


class _AttendRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: tuple[int, ...], scale: float) -> Tensor:
        output = torch.empty(query.shape, dtype=query.dtype)
        for row in _rows(offsets):
            states = (x[row].transpose(0, 1)[None] for x in (query, key, value))
            part, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*states, 0.0, True, scale=scale)
            output[row] = part[0].transpose(0, 1)
        ctx.save_for_backward(query, key, value, output)
        ctx.offsets, ctx.scale = offsets, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        high = torch.promote_types(query.dtype, torch.float32)
        dots = (gradient * output).sum(-1, keepdim=True, dtype=high)
        slopes = [torch.empty(x.shape, dtype=x.dtype) for x in (query, key, value)]
        for row in _rows(ctx.offsets):
            row_slopes = _row_gradient(*(x[row] for x in (query, key, value, gradient, dots)), scale=ctx.scale)
            for slope, part in zip(slopes, row_slopes, strict=True):
                slope[row] = part
        return *slopes, None, None


def _rows(offsets: Sequence[int]) -> Iterator[slice]:
    return (slice(start, end) for start, end in itertools.pairwise(offsets) if start < end)


def _row_gradient(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, dots: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of one row, block by block; keys and values collect from every block behind them."""
    (length, heads, width), groups, low, high = query.shape, key.shape[1], query.dtype, dots.dtype
    keys, values = key.transpose(0, 1), value.transpose(0, 1)
    d_query = torch.empty(query.shape, dtype=low)
    d_keys, d_values = (torch.zeros(groups, length, width, dtype=high) for _ in range(2))
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        q, slope, dot = (_stacked(x[start:end], groups) for x in (query, gradient, dots))
        k, v = keys[:, :end], values[:, :end]
        scores = torch.bmm(q, k.transpose(1, 2)).view(heads, end - start, end)
        unseen = torch.full((end - start, end), -torch.inf, dtype=high).triu_(start + 1)
        scores = torch.add(unseen, scores, alpha=scale)
        weights = torch.softmax(scores, -1, out=scores).view(groups, -1, end)
        change = (torch.bmm(slope, v.transpose(1, 2)) - dot).mul_(weights).mul_(scale).to(low)
        d_query[start:end] = torch.bmm(change, k).view(heads, -1, width).transpose(0, 1)
        d_keys[:, :end] += torch.bmm(change.transpose(1, 2), q)
        d_values[:, :end] += torch.bmm(weights.to(low).transpose(1, 2), slope)
    return d_query, d_keys.transpose(0, 1), d_values.transpose(0, 1)


def _stacked(x: Tensor, groups: int) -> Tensor:
    """(Q, H, K) to (G, S Q, K): head g S + s of token t becomes row s Q + t of matrix g."""
    block, _, width = x.shape
    return x.view(block, groups, -1, width).permute(1, 2, 0, 3).reshape(groups, -1, width)
