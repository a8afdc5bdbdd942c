"""Causal attention of packed rows on a processor: SDPA's kernel forward, plain matrix products backward.

    P = exp(s q k' - z),   dP = dO v',   dS = P (dP - rowsum(P dP))
    dq = s dS k,   dk = s dS' q,   dv = P' dO                        (Dao et al. 2022, arXiv:2205.14135, algorithm 4)

z is the logarithm of the sum of the exponentials, which the forward pass gives.

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

BLOCK, EVEN = 128, 16


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
        log_sums = torch.empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
        for row in _rows(offsets):
            states = (x[row].transpose(0, 1)[None] for x in (query, key, value))
            part, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*states, 0.0, True, scale=scale)
            output[row], log_sums[row] = part[0].transpose(0, 1), sums[0].T
        ctx.save_for_backward(query, key, value, log_sums)
        ctx.offsets, ctx.scale = offsets, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, log_sums = ctx.saved_tensors
        spread = Spread(ctx.offsets)
        given = [spread.out(x) for x in (query, key, value, gradient, log_sums[:, :, None])]
        slopes = [torch.empty(x.shape, dtype=x.dtype) for x in given[:3]]
        for row in spread.rows:
            for slope, part in zip(slopes, _row_gradient(*(x[row] for x in given), scale=ctx.scale), strict=True):
                slope[row] = part
        return *(spread.back(slope) for slope in slopes), None, None


class Spread:
    """Rows apart from each other, each with zeros up to a multiple of `EVEN` tokens.

    Zeros change nothing: a query without a gradient gives none, and keys behind a row are seen by no query of it. And
    rows of many lengths make products of few shapes (`even.py`).
    """

    def __init__(self, offsets: Sequence[int]) -> None:
        lengths = [end - start for start, end in itertools.pairwise(offsets)]
        starts = [0, *itertools.accumulate(-(-length // EVEN) * EVEN for length in lengths)]
        self.rows = [slice(start, end) for start, end in itertools.pairwise(starts) if start < end]
        self._total = starts[-1]
        self._places = torch.cat(
            [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]
        )

    def out(self, x: Tensor) -> Tensor:
        """(T, ...) to (T', ...)."""
        return x.new_zeros(self._total, *x.shape[1:]).index_copy_(0, self._places, x)

    def back(self, x: Tensor) -> Tensor:
        """(T', ...) to (T, ...)."""
        return x.index_select(0, self._places)


def _rows(offsets: Sequence[int]) -> Iterator[slice]:
    return (slice(start, end) for start, end in itertools.pairwise(offsets) if start < end)


def _row_gradient(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, log_sums: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of one row, block by block; keys and values collect from every block behind them."""
    (length, heads, width), groups, low, high = query.shape, key.shape[1], query.dtype, log_sums.dtype
    keys, values = key.transpose(0, 1), value.transpose(0, 1)
    d_query = torch.empty(query.shape, dtype=low)
    d_keys, d_values = (torch.zeros(groups, length, width, dtype=high) for _ in range(2))
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        q, slope, z = (_stacked(x[start:end], groups) for x in (query, gradient, log_sums))
        k, v = keys[:, :end], values[:, :end]
        weights = torch.add(-z, torch.bmm(q, k.transpose(1, 2)), alpha=scale).exp_()
        weights.view(heads, end - start, end).tril_(start)
        weights = weights.to(low)
        change = torch.ops.aten._softmax_backward_data(torch.bmm(slope, v.transpose(1, 2)), weights, -1, low)
        d_query[start:end] = torch.bmm(change, k).mul_(scale).view(heads, -1, width).transpose(0, 1)
        d_keys[:, :end].add_(torch.bmm(change.transpose(1, 2), q), alpha=scale)
        d_values[:, :end] += torch.bmm(weights.transpose(1, 2), slope)
    return d_query, d_keys.transpose(0, 1), d_values.transpose(0, 1)


def _stacked(x: Tensor, groups: int) -> Tensor:
    """(Q, H, K) to (G, S Q, K): head g S + s of token t becomes row s Q + t of matrix g."""
    block, _, width = x.shape
    return x.view(block, groups, -1, width).permute(1, 2, 0, 3).reshape(groups, -1, width)
