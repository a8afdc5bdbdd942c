"""Sums of products of large matrices by the compiled function; `products.c` says how they are made.

Libraries are as fast on the processors they were made for, and with matrix tiles faster. On AMD's they take half of
what the multipliers give in float32, and in bfloat16 they make code for each new number of rows. There these serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL
from struct import pack

from torch import Tensor

from keeptune.core.machine import processor_says
from keeptune.engine.kernel_contract import MOST_SUMMED


def serves(library: CDLL) -> bool:
    """Whether this processor has what the function needs, and needs the function."""
    return bool(library.multiplies()) and processor_says("vendor_id") == "AuthenticAMD"


def summed(
    library: CDLL, pairs: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, into: Tensor, threads: int
) -> Tensor:
    """As `Kernels.summed`."""
    assert len(pairs) <= MOST_SUMMED
    parts: list[int] = []  # of each, the numbers of a `struct part`
    kept: list[Tensor] = []  # they live as long as their places are in use
    for a, b in pairs:
        down, along = b.stride()
        across = down == 1 and along != 1
        left, right = _in_twos(a), _in_twos(b.T) if across else b
        kept += left, right
        parts += left.data_ptr(), right.data_ptr(), left.stride(0), right.stride(0), a.shape[1], across
    (rows, columns), places = into.shape, (None if bias is None else bias.data_ptr(), into.data_ptr())
    packed = pack(f"{len(parts)}q", *parts)
    if library.products(packed, len(pairs), *places, rows, columns, into.stride(0), threads):
        raise MemoryError("no memory for the panels of a product")
    return into


def _in_twos(x: Tensor) -> Tensor:
    """The same with dense rows, an even number of numbers apart; what is between them is zero."""
    rows, length = x.shape
    if not length % 2:
        stride, dense = x.stride()
        return x if dense == 1 and not stride % 2 else x.contiguous()
    wide = x.new_zeros(rows, length + 1)
    return wide[:, :length].copy_(x)
