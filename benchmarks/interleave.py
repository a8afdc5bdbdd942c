"""Rounds in random order, ratios pair by pair: how every comparison of this folder is made.

A machine that others use too is slower at one moment than at the next, and so is a processor that runs warm. So the
contestants take turns inside short rounds, each round in another random order; a ratio is taken within a round, and the
median over rounds is reported with its spread. Time is processor time of the process, which leaves waiting out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Seconds = dict[str, list[float]]


def interleaved(contestants: Mapping[str, Callable[[int], float]], rounds: int, seed: int, warm: int = 1) -> Seconds:
    """The seconds of each contestant in each of `rounds` rounds.

    Args:
        contestants: each is called with the number of the round, does its work once and says how long it took.
        rounds: that count; every contestant runs once in each.
        seed: of the orders.
        warm: rounds before, which do not count: allocations, kernels chosen, optimiser states made.
    """
    order, generator = list(contestants), random.Random(seed)
    seconds: Seconds = {name: [] for name in contestants}
    for turn in range(warm + rounds):
        generator.shuffle(order)
        for name in order:
            taken = contestants[name](turn)
            if turn >= warm:
                seconds[name].append(taken)
    return seconds


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of this process, all its threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """Slow / fast within each round: median, 10th and 90th percentile, lowest and highest."""
    pairs = np.array(slow) / np.array(fast)
    low, median, high = np.percentile(pairs, [10, 50, 90])
    found = {"median": median, "p10": low, "p90": high, "lowest": pairs.min(), "highest": pairs.max()}
    return {**{name: round(float(value), 4) for name, value in found.items()}, "n": len(pairs)}


def middle(seconds: Sequence[float]) -> float:
    """The median, rounded to a tenth of a millisecond."""
    return round(float(np.median(seconds)), 4)
