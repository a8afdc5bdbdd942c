"""Products of large matrices by the compiled function, as functions of tensors; `products.c` says how they are made.

Libraries are as fast on the processors they were made for, and with matrix tiles faster. On AMD's they take half of
what the multipliers give in float32, and in bfloat16 they make code for each new number of rows and copy the weight
every time. There these serve.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import CDLL, Structure, byref, c_int64, c_void_p
from pathlib import Path

from torch import Tensor

PARTS = 4
"""Of `products.c`: summands of a product."""


class _Part(Structure):
    _fields_ = (("of", c_void_p), ("stride", c_int64), ("length", c_int64), ("across", c_int64))


class _Side(Structure):
    _fields_ = (("of", c_void_p), ("stride", c_int64), ("first", c_int64), ("length", c_int64))


class _Result(Structure):
    _fields_ = (
        ("to", c_void_p),
        ("bias", c_void_p),
        ("stride", c_int64),
        ("rows", c_int64),
        ("across", c_int64),
        ("sides", _Side * PARTS),
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


def linear(
    library: CDLL,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    inner: Tensor | None,
    outers: Sequence[Tensor | None],
    into: Sequence[Tensor] | None,
    threads: int,
) -> tuple[Tensor, ...]:
    """As `Kernels.linear`."""
    outputs = tuple(x.new_empty(len(x), len(weight)) for weight in weights) if into is None else tuple(into)
    parts = [_part(x.T)] if inner is None else [_part(x.T), _part(inner.T)]
    results, taken = (_Result * len(weights))(), 0
    for result, y, weight, bias, outer in zip(results, outputs, weights, biases, outers, strict=True):
        result.to, result.stride, result.rows, result.across = y.data_ptr(), y.stride(0), len(weight), 1
        result.bias = None if bias is None else bias.data_ptr()
        result.sides[0] = _side(weight)
        if outer is not None:
            result.sides[1] = _side(outer, taken)
            taken += outer.shape[1]
    _run(library, parts, results, len(x), threads)
    return outputs


def summed(library: CDLL, pairs: Sequence[tuple[Tensor, Tensor]], threads: int) -> Tensor:
    """As `Kernels.summed`."""
    rows, columns = len(pairs[0][0]), pairs[0][1].shape[1]
    found, results = pairs[0][0].new_empty(rows, columns), (_Result * 1)()
    results[0].to, results[0].stride, results[0].rows = found.data_ptr(), columns, rows
    for number, (a, _) in enumerate(pairs):
        results[0].sides[number] = _side(a)
    _run(library, [_part(b) for _, b in pairs], results, columns, threads)
    return found


def padded(a: Tensor) -> Tensor:
    """Densely, a (M, R) with a column of zeros behind it, not counted, where R is odd."""
    wide = a.new_zeros(len(a), a.shape[1] + a.shape[1] % 2)
    narrow = wide[:, : a.shape[1]]
    return narrow.copy_(a)


def _part(b: Tensor) -> _Part:
    """The b (R, N) of a summand, dense in one of its dimensions."""
    across = b.stride(0) == 1 and b.stride(1) != 1
    return _Part(b.data_ptr(), b.stride(1 if across else 0), len(b), across)


def _side(a: Tensor, first: int = 0) -> _Side:
    return _Side(a.data_ptr(), a.stride(0), first, a.shape[1])


def _run(library: CDLL, parts: Sequence[_Part], results: object, columns: int, threads: int) -> None:
    given = (_Part * len(parts))(*parts)
    count = len(results)  # type: ignore[arg-type]
    if library.products(byref(given), len(parts), byref(results), count, columns, threads):  # type: ignore[arg-type]
        raise MemoryError("no memory for the panels of a product")
