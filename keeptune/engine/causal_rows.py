"""Causal attention of packed rows on a processor: kernels, or SDPA's forward and plain matrix products backward.

    P = exp(s q k' - z),   dP = dO v',   dS = P (dP - rowsum(P dP))
    dq = s dS k,   dk = s dS' q,   dv = P' dO                        (Dao et al. 2022, arXiv:2205.14135, algorithm 4)

z is the logarithm of the sum of the exponentials, which the forward pass gives.

Training runs the kernels (`native/attention.c`) where there are some. Where a model is measured the forward pass is
SDPA's, as transformers' is. Without kernels the gradient is made here, for that of SDPA is slow in bfloat16 on
a processor: queries go in blocks, and a block meets the keys up to its own end only, so half of the products are never
made, and memory stays at a block by a row. The query heads that share a key head lie one after another in one matrix,
so keys and values are never repeated and the sum over those heads is part of a product. Short rows go several at a
time, as many as stay in the cache.

In a tree of segments a row's own tokens are queries, and its keys are those of all segments before it and its own: keys
and values that rows share are read by each of them, and their gradients are added up in float32.

Shapes: T tokens of all segments, T' tokens that they see (T without a tree), N rows at a time, H query heads, G key
heads, S = H / G, L tokens of a row, P before them, Q of a block, K head width.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.kernel_contract import ProcessorKernels, of_processor
from keeptune.engine.kernels import serving
from keeptune.engine.learning import learns
from keeptune.engine.reach import reach_of
from keeptune.engine.segments import Segments, causal_band

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
        packed: the rows, or a tree of segments.
        window: of the layer.
        scale: factor on the scores; K ** -0.5 when None.

    Returns:
        (T, H, K).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    heads = query.shape[1]
    spread = packed.once(("spread", heads), lambda: Spread(packed, heads))
    output: Tensor = _AttendRows.apply(query, key, value, spread, scale, learns())  # type: ignore[no-untyped-call]
    return output


class _AttendRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spread: Spread, scale: float, trains: bool
    ) -> Tensor:
        ctx.spread, ctx.scale = spread, scale
        if trains and (kernels := _kernels(query, key, value)):
            k, v = (spread.seen(x) for x in (key, value))
            output, log_sums = kernels.attention(query, k, v, spread.offsets, scale)
            ctx.save_for_backward(query, key, value, log_sums)
            return output
        queries = spread.out(query)
        keys, values = (spread.keys(x) for x in (key, value))
        output = torch.empty(queries.shape, dtype=query.dtype)
        log_sums = torch.empty(queries.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
        for rows in spread.rows:
            states = (x.transpose(1, 2) for x in (rows.of(queries), rows.keys_of(keys), rows.keys_of(values)))
            mask = spread.mask(rows, query.dtype)
            part, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *states, 0.0, mask is None, attn_mask=mask, scale=scale
            )
            rows.of(output).copy_(part.transpose(1, 2))
            rows.of(log_sums).copy_(sums.transpose(1, 2))
        ctx.save_for_backward(query, key, value, spread.back(log_sums))
        return spread.back(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, log_sums = ctx.saved_tensors
        spread: Spread = ctx.spread
        if kernels := _kernels(query, key, value, gradient):
            k, v = (spread.seen(x) for x in (key, value))
            d_query, d_key, d_value = kernels.attention_back(query, k, v, gradient, log_sums, spread.offsets, ctx.scale)
        else:
            d_query, d_key, d_value = _by_rows(spread, query, key, value, gradient, log_sums, ctx.scale)
        return d_query, spread.gathered(d_key), spread.gathered(d_value), None, None, None


def _by_rows(
    spread: Spread, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, log_sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in q (T, H, K) and in what is seen of k and v (T', G, K), by torch's operators."""
    queries, slopes, sums = (spread.out(x) for x in (query, gradient, log_sums[:, :, None]))
    keys, values = spread.keys(key), spread.keys(value)
    d_query, d_key, d_value = (torch.empty(x.shape, dtype=x.dtype) for x in (queries, keys, values))
    for rows in spread.rows:
        given = rows.of(queries), rows.keys_of(keys), rows.keys_of(values), rows.of(slopes), rows.of(sums)
        found = _gradient(*given, past=rows.past, scale=scale)
        for whole, part in zip((rows.of(d_query), rows.keys_of(d_key), rows.keys_of(d_value)), found, strict=True):
            whole.copy_(part)
    return spread.back(d_query), spread.keys_back(d_key), spread.keys_back(d_value)


class Rows(NamedTuple):
    """Rows of one length, with as many tokens before it, that lie one after the other, and go at a time."""

    start: int
    key_start: int
    number: int
    length: int
    past: int

    def of(self, x: Tensor) -> Tensor:
        """Queries apart (..., H, K) to their part, (N, L, H, K)."""
        return self._part(x, self.start, self.length)

    def keys_of(self, x: Tensor) -> Tensor:
        """Keys apart (..., G, K) to their part, (N, P + L, G, K)."""
        return self._part(x, self.key_start, self.past + self.length)

    def _part(self, x: Tensor, start: int, length: int) -> Tensor:
        return x[start : start + self.number * length].view(self.number, length, *x.shape[1:])


def offsets_of(packed: Segments) -> tuple[Tensor, Tensor]:
    """Where the rows begin among the T tokens, and where what they see among the T'; made once for all layers."""
    return packed.once(("offsets",), lambda: (torch.tensor(packed.offsets), torch.tensor(packed.row_offsets)))


class Spread:
    """Rows apart from each other, sorted by length, each with zeros up to a multiple of `EVEN` tokens.

    Zeros change nothing: a query of zeros without a gradient gives none, and what stands behind the keys of a row is
    seen by no query of it. And rows of many lengths make products of few shapes (`even.py`).

    Attributes:
        rows: that go at a time.
        offsets: where the rows begin among the T tokens, and where what they see among the T'.
    """

    def __init__(self, packed: Segments, heads: int) -> None:
        reach = reach_of(packed, torch.device("cpu"))
        self._packed, self._reach = packed, reach
        lengths = packed.lengths
        even = [(past, -(-length // EVEN) * EVEN) for past, length in zip(reach.pasts, lengths, strict=True)]
        order = sorted((row for row in range(len(lengths)) if lengths[row]), key=even.__getitem__)
        self.offsets = offsets_of(packed)
        starts, key_starts, self.rows = [0] * len(lengths), [0] * len(lengths), list[Rows]()
        self._total = self._seen = 0
        for (past, length), alike in itertools.groupby(order, key=even.__getitem__):
            together = max(1, SCORES_IN_CACHE // (heads * min(BLOCK, length) * (past + length)))
            left = list(alike)
            while left:
                part, left = left[:together], left[together:]
                self.rows.append(Rows(self._total, self._seen, len(part), length, past))
                for row in part:
                    starts[row], key_starts[row] = self._total, self._seen
                    self._total, self._seen = self._total + length, self._seen + past + length
        self._places = _ranges(starts, lengths)
        self._key_places = self._places if packed.parents is None else _ranges(key_starts, packed.row_lengths)
        read = torch.arange(packed.offsets[-1]) if reach.read is None else reach.read
        self._read = torch.zeros(self._seen, dtype=torch.int64).index_copy_(0, self._key_places, read)

    def seen(self, x: Tensor) -> Tensor:
        """(T, G, K) to (T', G, K): what the rows see."""
        return self._reach.seen(x)

    def gathered(self, x: Tensor) -> Tensor:
        """Gradients of (T', G, K) to (T, G, K): those of all rows that see a token."""
        return self._reach.gathered(x)

    def out(self, x: Tensor) -> Tensor:
        """Of T tokens, to the rows apart."""
        return x.new_zeros(self._total, *x.shape[1:]).index_copy_(0, self._places, x)

    def back(self, x: Tensor) -> Tensor:
        """Of rows apart, to T tokens."""
        return x.index_select(0, self._places)

    def keys(self, x: Tensor) -> Tensor:
        """Of T tokens, to what the rows see apart, with some token behind each."""
        return x.index_select(0, self._read)

    def keys_back(self, x: Tensor) -> Tensor:
        """Of what the rows see apart, to T' tokens."""
        return x.index_select(0, self._key_places)

    def mask(self, rows: Rows, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores (L, P + L) of rows with something before them; elsewhere a flag says it."""
        if rows.past == 0:
            return None

        def make() -> Tensor:
            whole = rows.past + rows.length
            hidden = ~causal_band(whole, whole, None, torch.device("cpu"))[rows.past :]
            return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)

        return self._packed.once(("added", rows.past, rows.length, dtype), make)


def _ranges(starts: list[int], lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])


def _gradient(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, log_sums: Tensor, *, past: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows (N, L, ...), block by block; keys and values collect from every block behind them."""
    (count, length, heads, width), groups, low, high = query.shape, key.shape[2], query.dtype, log_sums.dtype
    keys, values = (x.transpose(1, 2).reshape(count * groups, past + length, width) for x in (key, value))
    d_query = torch.empty(query.shape, dtype=low)
    d_keys, d_values = (torch.zeros(keys.shape, dtype=high) for _ in range(2))
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        q, slope, z = (_stacked(x[:, start:end], groups) for x in (query, gradient, log_sums))
        k, v = keys[:, : past + end], values[:, : past + end]
        weights = torch.add(-z, torch.bmm(q, k.transpose(1, 2)), alpha=scale).exp_()
        weights.view(count * heads, end - start, past + end).tril_(past + start)
        weights = weights.to(low)
        change = torch.ops.aten._softmax_backward_data(torch.bmm(slope, v.transpose(1, 2)), weights, -1, low)
        d_block = torch.bmm(change, k).mul_(scale).view(count, heads, -1, width)
        d_query[:, start:end] = d_block.transpose(1, 2)
        d_keys[:, : past + end].add_(torch.bmm(change.transpose(1, 2), q), alpha=scale)
        d_values[:, : past + end] += torch.bmm(weights.transpose(1, 2), slope)
    d_key, d_value = (x.view(count, groups, past + length, width).transpose(1, 2) for x in (d_keys, d_values))
    return d_query, d_key, d_value


def _stacked(x: Tensor, groups: int) -> Tensor:
    """(N, Q, H, K) to (N G, S Q, K): head g S + s of token t becomes row s Q + t of the matrix of g."""
    count, block, _, width = x.shape
    return x.view(count, block, groups, -1, width).permute(0, 2, 3, 1, 4).reshape(count * groups, -1, width)
