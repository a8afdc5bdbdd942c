"""Even sizes: products in bfloat16 on a processor are given one of few numbers of rows.

There, code is made for the shape of a product when it first occurs, and that takes longer than the product: with AMX
8 ms against 1 for a map of a thousand tokens (`python -m benchmarks.new_shapes`). A training step has about a hundred
shapes that depend on its number of tokens, of supervised positions or on the length of a row, and hardly two steps
agree. Rounded up to a multiple of 32, above 2,048 to one of thirty-two sizes between a power of two and the next, the
same shapes return; of a thousand rows or more, at most 3% are computed for nothing. Products of our own need none of
this (`native/products.c`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIZES, LEAST = 32, 32


def even_size(count: int, like: Tensor) -> int:
    """The number of rows that a product with `like`'s dtype and device should have to serve `count` rows."""
    if like.device.type != "cpu" or like.dtype != torch.bfloat16:
        return count
    step: int = max(LEAST, 2 ** count.bit_length() // (2 * SIZES))
    return -(-count // step) * step


def evened(rows: Tensor) -> Tensor:
    """(N, ...) with rows of zeros behind, as many as make it an even size."""
    missing = even_size(len(rows), rows) - len(rows)
    return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows
