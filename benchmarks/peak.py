"""What the processor's products reach at best: the roof over everything that is made of them."""

from __future__ import annotations

import time

import torch

SHAPE = (1024, 512, 1408)
"""Tokens, inputs and outputs of a feed-forward map of the timed model."""


def peak(dtype: torch.dtype, repetitions: int = 20) -> float:
    """Operations per second of the best product of hidden states and a feed-forward weight, in this process."""
    tokens, inputs, outputs = SHAPE
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.process_time() - start)
    return 2 * tokens * inputs * outputs / best
