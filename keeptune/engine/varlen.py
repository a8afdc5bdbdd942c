"""Causal attention of packed rows on a GPU: one FlashAttention kernel for rows of any length.

The kernel is that of `torch.nn.attention.varlen`. It reads where rows begin, so no mask is built; sliding windows and
shared key heads are its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Set
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    )


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, packed: Segments, window: int | None, scale: float | None
) -> Tensor:
    """softmax(scale q k') v of each row over its own past and window: (T, H, K), keys and values (T, G, K)."""
    from torch.nn.attention.varlen import varlen_attn

    bounds = packed.bounds(query.device)
    # The kernel counts the keys to the left of a query's own.
    left = -1 if window is None else window - 1
    # Shared key heads are always the kernel's own, and later versions of torch want to be told.
    shared: dict[str, Any] = {}
    if "enable_gqa" in _arguments():
        shared["enable_gqa"] = key.shape[1] != query.shape[1]
    output = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        packed.longest,
        packed.longest,
        scale=scale,
        window_size=(left, 0),
        **shared,
    )
    assert isinstance(output, Tensor), "nothing beside the output was asked for"
    return output


@functools.cache
def _arguments() -> Set[str]:
    """Those of the kernel in this version of torch; none where it has no such kernel."""
    try:
        kernel = import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(kernel).parameters)
