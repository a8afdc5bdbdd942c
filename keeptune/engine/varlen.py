"""Causal attention of packed rows on a GPU: one FlashAttention kernel for rows of any length.

The kernel is that of `torch.nn.attention.varlen`. It reads where rows begin, so no mask is built; sliding windows and
shared key heads are its own. In a tree of segments a row has more keys than queries. Its last query must then belong to
its last key, as FlashAttention 2 has it and torch does not say: the kernel is asked once, on numbers of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Set
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from keeptune.engine.reach import reach_of

if TYPE_CHECKING:
    from keeptune.engine.segments import Segments

OLDEST = (8, 0)  # Ampere
WIDEST = 256  # of a head


def suits(query: Tensor, packed: Segments, window: int | None, dropout: float) -> bool:
    """Whether the kernel is there and takes these rows; `query` is (T, H, K)."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= WIDEST
        and dropout == 0.0
        and torch.cuda.get_device_capability(query.device) >= OLDEST
        and {"scale", "window_size"} <= _arguments()
        and (packed.parents is None or _ends_together(query.device, query.dtype))
    )


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, packed: Segments, window: int | None, scale: float | None
) -> Tensor:
    """softmax(scale q k') v of each row over its own past and window: (T, H, K), keys and values (T, G, K)."""
    reach, device = reach_of(packed, query.device), query.device
    ends = (packed.bounds(device), packed.row_bounds(device), max(packed.lengths), packed.longest)
    return _kernel(query, reach.seen(key), reach.seen(value), ends, window=window, scale=scale)


def _kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: tuple[Tensor, Tensor, int, int],
    *,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """The same, told where rows of queries and of keys end, and how long the longest ones are."""
    from torch.nn.attention.varlen import varlen_attn

    # The kernel counts the keys to the left of a query's own.
    left = -1 if window is None else window - 1
    # Shared key heads are always the kernel's own, and later versions of torch want to be told.
    shared: dict[str, Any] = {}
    if "enable_gqa" in _arguments():
        shared["enable_gqa"] = key.shape[1] != query.shape[1]
    output = varlen_attn(query, key, value, *ends, scale=scale, window_size=(left, 0), **shared)
    assert isinstance(output, Tensor), "nothing beside the output was asked for"
    return output


@functools.cache
def _ends_together(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether, where a row has more keys than queries, the last query sees the last key and the first does not."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(tokens, 2, 64, generator=draw).to(device, dtype) for tokens in (5, 12, 12))
    seen = torch.ones(5, 12, dtype=torch.bool, device=device).tril(7)
    q, k, v = (x.double().transpose(0, 1) for x in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen).transpose(0, 1)
    own, all_ = (torch.tensor([0, length], dtype=torch.int32, device=device) for length in (5, 12))
    try:
        found = _kernel(query, key, value, (own, all_, 5, 12), window=None, scale=None)
    except Exception:  # of a kernel that does not take such rows: each its own error
        return False
    return bool((found.double() - expected).norm() <= 2**-6 * expected.norm())


@functools.cache
def _arguments() -> Set[str]:
    """Those of the kernel in this version of torch; none where it has no such kernel."""
    try:
        kernel = import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(kernel).parameters)
