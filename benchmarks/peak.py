"""What the processor's products reach at best: the roof over everything that is made of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from keeptune.engine.kernels import multiplying

SHAPE = (1024, 512, 1408)
"""Tokens, inputs and outputs of a feed-forward map of the timed model."""


def ways(a: Tensor, b: Tensor) -> list[Callable[[], object]]:
    """The product a b by torch's library and, where that serves, by our own function: either may be the faster."""
    found: list[Callable[[], object]] = [lambda: a @ b]
    if own := multiplying(a):
        found.append(lambda: own.summed((a, b)))
    return found


def peak(dtype: torch.dtype, repetitions: int = 20) -> float:
    """Operations per second of the best product of hidden states and a feed-forward weight, in this process."""
    tokens, inputs, outputs = SHAPE
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    best = float("inf")
    for _ in range(repetitions):
        for way in ways(x, weight.T):
            start = time.process_time()
            way()
            best = min(best, time.process_time() - start)
    return 2 * tokens * inputs * outputs / best
