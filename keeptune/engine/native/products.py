"""Sums of products of large matrices by the compiled function; `products.c` says how they are made.

Libraries are as fast on the processors they were made for, and with matrix tiles faster. On AMD's they take half of
what the multipliers give in float32, and in bfloat16 they make code for each new number of rows. There these serve.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import CDLL, Structure, byref, c_int64, c_void_p
from pathlib import Path

from torch import Tensor


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
    return bool(library.multiplies()) and vendor() == "AuthenticAMD"


@functools.cache
def vendor() -> str:
    """Who made the processor, as the kernel of the system tells it; nothing where it does not."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def summed(
    library: CDLL, pairs: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, into: Tensor, threads: int
) -> Tensor:
    """As `Kernels.summed`."""
    sides = [_dense(a) for a, _ in pairs]  # named, so that they live as long as their places are in use
    parts = (_Part * len(pairs))(*(_part(a, b) for a, (_, b) in zip(sides, pairs, strict=True)))
    places = byref(parts), len(parts), None if bias is None else bias.data_ptr(), into.data_ptr()
    if library.products(*places, *into.shape, into.stride(0), threads):
        raise MemoryError("no memory for the panels of a product")
    return into


def _part(a: Tensor, b: Tensor) -> _Part:
    across = b.stride(0) == 1 and b.stride(1) != 1
    return _Part(a.data_ptr(), b.data_ptr(), a.stride(0), b.stride(1 if across else 0), len(b), across)


def _dense(a: Tensor) -> Tensor:
    """The a of a pair with dense rows, an even number of numbers apart; what is between them is zero."""
    if a.stride(1) == 1 and not a.stride(0) % 2 and not a.shape[1] % 2:
        return a
    wide = a.new_zeros(len(a), a.shape[1] + a.shape[1] % 2)
    return wide[:, : a.shape[1]].copy_(a)
