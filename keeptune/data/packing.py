"""Packing: rows into batches of a bounded number of tokens; no row is split and nothing is padded.

Three arrangements of the drawn order. `drawn` fills each batch until the next row would not fit. The other two look at
a window of rows at a time, so that the mixture holds from window to window, and shuffle the window's batches:
`best_fit` takes rows by falling length and puts each where it leaves the least room (best-fit decreasing; Johnson 1974:
at most 11/9 of the least number of batches, and one more), `by_length` fills batches with neighbours in length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Literal

from keeptune.data.mixing import mixed_order

Packing = Literal["drawn", "best_fit", "by_length"]
WINDOW = 64
"""Batches' worth of tokens that are arranged together."""


def plan_batches(
    lengths_by_source: Mapping[str, Sequence[int]],
    shares: Mapping[str, float] | None = None,
    *,
    batch_tokens: int,
    seed: int,
    epochs: float | None = None,
    steps: int | None = None,
    overhead_tokens: int = 0,
    packing: Packing = "drawn",
) -> list[list[int]]:
    """All batches of a training run, known before it starts; a resumed run plans the same ones.

    Rows come in the order of `mixing.mixed_order`, arranged by `packing`. A row longer than `batch_tokens` is a batch
    of its own.

    Args:
        lengths_by_source: tokens of every row, by source.
        shares: share of the tokens, by source; None takes every row once per epoch.
        batch_tokens: most tokens in a batch.
        seed: of the run.
        epochs: passes over the leading source; give this or `steps`.
        steps: number of batches.
        overhead_tokens: tokens that each row takes beside its own, such as a soft prompt's.
        packing: the arrangement; see the module.

    Returns:
        Batches of row numbers. Rows are numbered through, source after source, in the order of `lengths_by_source`.

    >>> [len(batch) for batch in plan_batches({"task": [4, 4, 4, 9]}, batch_tokens=8, seed=0, epochs=1)]
    [2, 1, 1]
    """
    assert (epochs is None) != (steps is None), "either epochs or steps"
    numbered, start = {}, 0
    for source, lengths in lengths_by_source.items():
        numbered[source] = start
        start += len(lengths)
    order = mixed_order(lengths_by_source, shares, seed, math.inf if epochs is None else epochs)
    rows = ((numbered[source] + index, lengths_by_source[source][index] + overhead_tokens) for source, index in order)
    batches = filled(rows, batch_tokens) if packing == "drawn" else arranged(rows, batch_tokens, packing, seed)
    return list(islice(batches, steps))


def filled(rows: Iterable[tuple[int, int]], batch_tokens: int) -> Iterator[list[int]]:
    """Consecutive rows (number, tokens) in batches of at most `batch_tokens` tokens."""
    batch: list[int] = []
    size = 0
    for number, tokens in rows:
        if batch and size + tokens > batch_tokens:
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += tokens
    if batch:
        yield batch


def arranged(rows: Iterable[tuple[int, int]], batch_tokens: int, packing: Packing, seed: int) -> Iterator[list[int]]:
    """Rows (number, tokens) in batches, window after window; the batches of a window come in a shuffled order."""
    for number, window in enumerate(_windows(rows, WINDOW * batch_tokens)):
        longest_first = sorted(window, key=lambda row: -row[1])
        if packing == "best_fit":
            batches = best_fit(longest_first, batch_tokens)
        else:
            batches = list(filled(longest_first, batch_tokens))
        Random(f"{seed}|packing|{number}").shuffle(batches)
        yield from batches


def best_fit(rows: Sequence[tuple[int, int]], batch_tokens: int) -> list[list[int]]:
    """Each row (number, tokens), in turn, where it leaves the least room; the earliest batch among equals."""
    batches: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, batch), rising
    for number, tokens in rows:
        place = bisect_left(room, (tokens, -1))
        if place == len(room):
            left, batch = batch_tokens, len(batches)
            batches.append([])
        else:
            left, batch = room.pop(place)
        batches[batch].append(number)
        insort(room, (left - tokens, batch))
    return batches


def _windows(rows: Iterable[tuple[int, int]], tokens: int) -> Iterator[list[tuple[int, int]]]:
    window: list[tuple[int, int]] = []
    size = 0
    for row in rows:
        window.append(row)
        size += row[1]
        if size >= tokens:
            yield window
            window, size = [], 0
    if window:
        yield window
