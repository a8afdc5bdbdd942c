"""What the processor's products reach at best: the roof over everything that is made of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from keeptune.engine.kernel_contract import of_processor
from keeptune.engine.kernels import serving

SHAPE = (1024, 512, 1408)
"""Tokens, inputs and outputs of a feed-forward map of the timed model."""


def peak(dtype: torch.dtype, repetitions: int = 20) -> float:
    """Operations per second of the best product of hidden states and a feed-forward weight, in this process.

    By torch's library or by our own function, where that serves: whichever is the faster.
    """
    tokens, inputs, outputs = SHAPE
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    ways: list[Callable[[], object]] = [lambda: torch.nn.functional.linear(x, weight)]
    own = of_processor(serving(x, weight))
    if own is not None and own.sums(inputs):
        ways.append(lambda: own.summed((x, weight.T)))
    best = float("inf")
    for _ in range(repetitions):
        for way in ways:
            start = time.process_time()
            way()
            best = min(best, time.process_time() - start)
    return 2 * tokens * inputs * outputs / best
