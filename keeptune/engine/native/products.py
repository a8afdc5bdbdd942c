"""Sums of products of large matrices by the compiled function; `products.c` says how they are made.

Libraries are as fast on the processors they were made for, and with matrix tiles faster. On AMD's they take half of
what the multipliers give in float32, and in bfloat16 they make code for each new number of rows. There these serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, Structure, c_int64, c_void_p

from torch import Tensor

from keeptune.core.machine import processor_says
from keeptune.engine.kernel_contract import MOST_SUMMED


class _Part(Structure):
    _fields_ = (
        ("a", c_void_p),
        ("b", c_void_p),
        ("a_stride", c_int64),
        ("b_stride", c_int64),
        ("length", c_int64),
        ("across", c_int64),
    )


def serves(library: CDLL) -> bool:
    """Whether this processor has what the function needs, and needs the function."""
    return bool(library.multiplies()) and processor_says("vendor_id") == "AuthenticAMD"


def summed(
    library: CDLL, pairs: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, into: Tensor, threads: int
) -> Tensor:
    """As `Kernels.summed`."""
    assert len(pairs) <= MOST_SUMMED
    parts, kept = (_Part * len(pairs))(), []
    for part, (a, b) in zip(parts, pairs, strict=True):
        (down, along), (stride, columns), length = b.stride(), a.stride(), a.shape[1]
        dense = a if columns == 1 and not stride % 2 and not length % 2 else _dense(a)
        kept.append(dense)  # lives as long as its place is in use
        part.a, part.a_stride, part.length = dense.data_ptr(), dense.stride(0), length
        part.across = across = down == 1 and along != 1
        part.b, part.b_stride = b.data_ptr(), along if across else down
    (rows, columns), places = into.shape, (None if bias is None else bias.data_ptr(), into.data_ptr())
    if library.products(parts, len(pairs), *places, rows, columns, into.stride(0), threads):
        raise MemoryError("no memory for the panels of a product")
    return into


def _dense(a: Tensor) -> Tensor:
    """The a of a pair with dense rows, an even number of numbers apart; what is between them is zero."""
    rows, length = a.shape
    if not length % 2:
        return a.contiguous()
    wide = a.new_zeros(rows, length + 1)
    return wide[:, :length].copy_(a)
