"""What the processor's products reach at best: the roof over everything that is made of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

SHAPE = (1024, 512, 1408)
"""Tokens, inputs and outputs of a feed-forward map of the timed model."""


def peak(dtype: torch.dtype, repetitions: int = 20) -> float:
    """Operations per second of the best product of hidden states and a feed-forward weight, in this process."""
    tokens, inputs, outputs = SHAPE
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    best = float("inf")
    for product in products(weight, tokens):
        for _ in range(repetitions):
            start = time.process_time()
            product(x)
            best = min(best, time.process_time() - start)
    return 2 * tokens * inputs * outputs / best


def products(weight: Tensor, rows: int) -> list[Callable[[Tensor], Tensor]]:
    """X W' of x (rows, in) with W (out, in): by torch's choice of a library, and by oneDNN with W packed for it.

    Whoever could use the second: a roof is the best that there is. Where torch has none, the first alone.
    """
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    except (AttributeError, RuntimeError):
        return [lambda x: torch.nn.functional.linear(x, weight)]
    onednn = torch.ops.mkldnn._linear_pointwise
    return [lambda x: torch.nn.functional.linear(x, weight), lambda x: onednn(x, packed, None, "none", [], "")]
