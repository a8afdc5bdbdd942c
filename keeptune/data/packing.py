"""Packing: rows into batches of a bounded number of tokens; no row is split and nothing is padded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from keeptune.data.mixing import mixed_order


def plan_batches(
    lengths_by_source: Mapping[str, Sequence[int]],
    shares: Mapping[str, float] | None = None,
    *,
    batch_tokens: int,
    seed: int,
    epochs: float | None = None,
    steps: int | None = None,
    overhead_tokens: int = 0,
) -> list[list[int]]:
    """All batches of a training run, known before it starts; a resumed run plans the same ones.

    Rows come in the order of `mixing.mixed_order` and fill a batch until the next one would not fit. A row longer
    than `batch_tokens` is a batch of its own.

    Args:
        lengths_by_source: tokens of every row, by source.
        shares: share of the tokens, by source; None takes every row once per epoch.
        batch_tokens: most tokens in a batch.
        seed: of the run.
        epochs: passes over the leading source; give this or `steps`.
        steps: number of batches.
        overhead_tokens: tokens that each row takes beside its own, such as a soft prompt's.

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
    return list(islice(filled(rows, batch_tokens), steps))


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
