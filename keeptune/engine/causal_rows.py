"""Causal attention of packed rows on a processor: SDPA's kernel forward, plain matrix products backward.

    P = exp(s q k' - z),   dP = dO v',   dS = P (dP - rowsum(P dP))
    dq = s dS k,   dk = s dS' q,   dv = P' dO                        (Dao et al. 2022, arXiv:2205.14135, algorithm 4)

z is the logarithm of the sum of the exponentials, which the forward pass gives.

The gradient kernel of SDPA is slow in bfloat16 on a processor. Here queries go in blocks, and a block meets
the keys up to its own end only: half of the products are never made, and memory stays at a block by a row. The query
heads that share a key head lie one after another in one matrix, so keys and values are never repeated and the sum over
those heads is part of a product. Short rows go several at a time, as many as stay in the cache. The forward pass does
not depend on whether gradients are taken.

Shapes: T tokens of all rows, N rows at a time, H query heads, G key heads, S = H / G, L tokens of a row, Q of a block,
K head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.kernel_contract import ProcessorKernels, of_processor
from keeptune.engine.kernels import serving

if TYPE_CHECKING:
    from keeptune.engine.segments import Segments

BLOCK, EVEN = 128, 8
SCORES_IN_CACHE = 2**18
"""Scores of the rows that go at a time, if they are more than one."""


def suits(query: Tensor, packed: Segments, window: int | None, dropout: float) -> bool:
    """Whether this form is right for these rows, and the faster one; `query` is (T, H, K)."""
    whole = window is None or packed.longest <= window
    return query.device.type == "cpu" and whole and dropout == 0.0 and _faster(query)


def _faster(query: Tensor) -> bool:
    """SDPA's own gradient is slow in bfloat16 alone; the kernel is faster than it in float32 too."""
    if query.dtype == torch.bfloat16:
        return True
    return _kernels(query) is not None


def _kernels(query: Tensor, *others: Tensor) -> ProcessorKernels | None:
    found = of_processor(serving(query, *others))
    return found if found is not None and found.attends(query.shape[2]) else None


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
        spread = Spread(offsets, query.shape[1])
        given = [spread.out(x) for x in (query, key, value)]
        output = torch.empty(given[0].shape, dtype=query.dtype)
        log_sums = torch.empty(given[0].shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
        for rows in spread.rows:
            states = (rows.of(x).transpose(1, 2) for x in given)
            part, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*states, 0.0, True, scale=scale)
            rows.of(output).copy_(part.transpose(1, 2))
            rows.of(log_sums).copy_(sums.transpose(1, 2))
        ctx.save_for_backward(query, key, value, spread.back(log_sums))
        ctx.spread, ctx.scale = spread, scale
        return spread.back(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, log_sums = ctx.saved_tensors
        spread: Spread = ctx.spread
        if kernels := _kernels(query, key, value, gradient):
            found = kernels.attention_back(query, key, value, gradient, log_sums, spread.offsets, ctx.scale)
            return *found, None, None
        given = [spread.out(x) for x in (query, key, value, gradient, log_sums[:, :, None])]
        slopes = [torch.empty(x.shape, dtype=x.dtype) for x in given[:3]]
        for rows in spread.rows:
            found = _gradient(*(rows.of(x) for x in given), scale=ctx.scale)
            for slope, part in zip(slopes, found, strict=True):
                rows.of(slope).copy_(part)
        return *(spread.back(slope) for slope in slopes), None, None


class Rows(NamedTuple):
    """Rows of one length that lie one after the other, and go at a time."""

    start: int
    number: int
    length: int

    def of(self, x: Tensor) -> Tensor:
        """(T', ...) to their part, (N, L, ...)."""
        end = self.start + self.number * self.length
        return x[self.start : end].view(self.number, self.length, *x.shape[1:])


class Spread:
    """Rows apart from each other, sorted by length, each with zeros up to a multiple of `EVEN` tokens.

    Zeros change nothing: a query without a gradient gives none, and keys behind a row are seen by no query of it. And
    rows of many lengths make products of few shapes (`even.py`).
    """

    def __init__(self, offsets: Sequence[int], heads: int) -> None:
        lengths = [end - start for start, end in itertools.pairwise(offsets)]
        even = [-(-length // EVEN) * EVEN for length in lengths]
        order = sorted((row for row in range(len(lengths)) if lengths[row]), key=even.__getitem__)
        self.offsets = torch.tensor(offsets)
        starts, self.rows, self._total = [0] * len(lengths), list[Rows](), 0
        for length, alike in itertools.groupby(order, key=even.__getitem__):
            together = max(1, SCORES_IN_CACHE // (heads * min(BLOCK, length) * length))
            left = list(alike)
            while left:
                part, left = left[:together], left[together:]
                self.rows.append(Rows(self._total, len(part), length))
                for row in part:
                    starts[row], self._total = self._total, self._total + length
        self._places = torch.cat(
            [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        )

    def out(self, x: Tensor) -> Tensor:
        """(T, ...) to (T', ...)."""
        return x.new_zeros(self._total, *x.shape[1:]).index_copy_(0, self._places, x)

    def back(self, x: Tensor) -> Tensor:
        """(T', ...) to (T, ...)."""
        return x.index_select(0, self._places)


def _gradient(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, log_sums: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows (N, L, ...), block by block; keys and values collect from every block behind them."""
    (count, length, heads, width), groups, low, high = query.shape, key.shape[2], query.dtype, log_sums.dtype
    keys, values = (x.transpose(1, 2).reshape(count * groups, length, width) for x in (key, value))
    d_query = torch.empty(query.shape, dtype=low)
    d_keys, d_values = (torch.zeros(keys.shape, dtype=high) for _ in range(2))
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        q, slope, z = (_stacked(x[:, start:end], groups) for x in (query, gradient, log_sums))
        k, v = keys[:, :end], values[:, :end]
        weights = torch.add(-z, torch.bmm(q, k.transpose(1, 2)), alpha=scale).exp_()
        weights.view(count * heads, end - start, end).tril_(start)
        weights = weights.to(low)
        change = torch.ops.aten._softmax_backward_data(torch.bmm(slope, v.transpose(1, 2)), weights, -1, low)
        d_block = torch.bmm(change, k).mul_(scale).view(count, heads, -1, width)
        d_query[:, start:end] = d_block.transpose(1, 2)
        d_keys[:, :end].add_(torch.bmm(change.transpose(1, 2), q), alpha=scale)
        d_values[:, :end] += torch.bmm(weights.transpose(1, 2), slope)
    d_key, d_value = (x.view(count, groups, length, width).transpose(1, 2) for x in (d_keys, d_values))
    return d_query, d_key, d_value


def _stacked(x: Tensor, groups: int) -> Tensor:
    """(N, Q, H, K) to (N G, S Q, K): head g S + s of token t becomes row s Q + t of the matrix of g."""
    count, block, _, width = x.shape
    return x.view(count, block, groups, -1, width).permute(0, 2, 3, 1, 4).reshape(count * groups, -1, width)
