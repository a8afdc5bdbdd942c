"""Sums of products of large matrices by the compiled function; `products.c` says how they are made.

Libraries are as fast on the processors they were made for, and with matrix tiles faster. On AMD's they take half of
what the multipliers give in float32, and in bfloat16 they make code for each new number of rows. There these serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL

import torch
from torch import Tensor

from keeptune.core.machine import processor_says
from keeptune.engine.kernel_contract import MOST_SUMMED
from keeptune.engine.native.calls import call_products, settle


def serves(library: CDLL) -> bool:
    """Whether this processor has what the function needs, and needs the function."""
    return bool(library.multiplies()) and processor_says("vendor_id") == "AuthenticAMD"


def summed(
    library: CDLL,
    pairs: Sequence[tuple[Tensor, Tensor]],
    onto: Tensor | None,
    into: Tensor,
    scale: float,
    threads: int,
) -> None:
    """As `Kernels.summed`."""
    assert len(pairs) <= MOST_SUMMED
    parts: list[int] = []  # of each, the numbers of a `struct part`
    kept = [into] if onto is None else [into, onto]  # they live as long as their places are in use
    for a, b in pairs:
        length = b.shape[0]
        (left, a_stride, lying), (right, b_stride, across) = _left(a, length), _right(b, length)
        kept += left, right
        parts += left.data_ptr(), right.data_ptr(), a_stride, b_stride, length, lying, across
    (rows, columns), (stride, following), wide = into.shape, into.stride(), into.dtype == torch.float32
    turned = stride == 1 != following
    begin = (0, 0) if onto is None else (onto.data_ptr(), onto.stride(0) if onto.dim() == 2 else 0)
    sizes = begin[1], following if turned else stride, rows, columns, wide, turned, len(pairs)
    call_products(library, (threads, scale, begin[0], into.data_ptr(), *sizes), parts, kept)


def _left(a: Tensor, length: int) -> tuple[Tensor, int, bool]:
    """An a as the function reads it, the numbers from one row to the next, and whether it lies."""
    stride, following = a.stride()
    if stride == 1 != following:
        return a, following, True
    if following == 1 and not (stride % 2 or length % 2):
        return a, stride, False
    even = _in_twos(a)
    return even, even.shape[1], False


def _right(b: Tensor, length: int) -> tuple[Tensor, int, bool]:
    """A b as the function reads it, the numbers from one row to the next, and whether it lies across."""
    stride, following = b.stride()
    if stride == 1 != following:
        if not (following % 2 or length % 2):
            return b, following, True
        even = _in_twos(b.T)
        return even, even.shape[1], True
    if following == 1 and not stride % 2:
        return b, stride, False
    even = _in_twos(b)
    return even, even.shape[1], False


def _in_twos(x: Tensor) -> Tensor:
    """The same with dense rows of an even number of numbers, the last of which may be a zero."""
    settle()
    rows, length = x.shape
    even = x.new_zeros(rows, length + length % 2)
    even[:, :length].copy_(x)
    return even
