"""Mixture: the order in which rows of several sources are seen, in stated proportions of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from random import Random

from keeptune.core.counting import counted
from keeptune.core.errors import RecipeError, did_you_mean


def mixed_order(
    lengths: Mapping[str, Sequence[int]], shares: Mapping[str, float] | None, seed: int, epochs: float
) -> Iterator[tuple[str, int]]:
    """Rows of all sources, (source, index), such that every source gets its share of the tokens.

    The source furthest below its share gives the next row: after any number of tokens n, a source s has between
    n p_s - L and n p_s + L tokens, where L is the longest row. Each pass over a source is a new shuffle, named by the
    seed, the source and the pass, so that the same seed gives the same order on any machine.

    Args:
        lengths: tokens of every row, by source.
        shares: share of the tokens, by source, scaled to sum to 1; None shuffles all rows together, each once a pass.
        seed: of the run.
        epochs: passes over the leading source, the one with the largest share (the first among equals). The others
            go round as often as their share asks. `math.inf` never stops.

    Raises:
        RecipeError: a share of a source without rows, or one that is not positive (E-MIX-SHARE).
    """
    if shares is None:
        yield from _all_together(lengths, seed, epochs)
        return
    _check(shares, lengths)
    total = sum(shares.values())
    part = {source: share / total for source, share in shares.items()}
    leading = max(part, key=lambda source: part[source])
    wanted = math.inf if math.isinf(epochs) else round(epochs * len(lengths[leading]))
    streams = {source: _passes(len(lengths[source]), seed, source) for source in part}
    seen = dict.fromkeys(part, 0)
    given = 0
    while given < wanted:
        tokens = sum(seen.values())
        source = max(part, key=lambda name: part[name] * tokens - seen[name])
        index = next(streams[source])
        seen[source] += lengths[source][index]
        given += source == leading
        yield source, index


def proportional(
    lengths: Mapping[str, Sequence[float]], cap: int | None = None, temperature: float = 1.0
) -> dict[str, float]:
    """Shares of the tokens that draw the examples of a source with p proportional to min(n, cap)^(1/temperature).

    This is examples-proportional mixing (Raffel et al. 2020, section 3.5.2). Shares here are of tokens, so that each
    chance is multiplied by the source's mean length: share_s = p_s l_s / sum of p l. FLAN caps at 30,000 and mixes with
    3,000; temperature 1 is proportional, and a large one gives every source the same number of examples.

    Args:
        lengths: tokens of every row, by source; none is empty.
        cap: examples beyond this many do not count.
        temperature: at least 1 flattens, below 1 sharpens.
    """
    chances = {name: min(len(rows), cap or len(rows)) ** (1 / temperature) for name, rows in lengths.items()}
    weights = {name: chances[name] * sum(rows) / len(rows) for name, rows in lengths.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def sample_size(rows: int, share: float) -> int:
    """Rows of a sample: at least one."""
    return max(1, round(share * rows))


def sampled(ids: Sequence[str], share: float, name: str) -> list[int]:
    """Places of a share of rows, in their order; a smaller share is inside a larger one.

    Args:
        ids: of all rows.
        share: above 0, at most 1.
        name: of the drawing, such as seed and source.
    """
    order = sorted(range(len(ids)), key=lambda place: sha256(f"{name}|{ids[place]}|{place}".encode()).digest())
    return sorted(order[: sample_size(len(ids), share)])


def _all_together(lengths: Mapping[str, Sequence[int]], seed: int, epochs: float) -> Iterator[tuple[str, int]]:
    everything = [(source, index) for source, rows in lengths.items() for index in range(len(rows))]
    assert everything, "there is a row to train on"
    wanted = None if math.isinf(epochs) else round(epochs * len(everything))
    return (everything[place] for place in islice(_passes(len(everything), seed, "*"), wanted))


def _check(shares: Mapping[str, float], lengths: Mapping[str, Sequence[int]]) -> None:
    for source, share in shares.items():
        if source not in lengths:
            fix = did_you_mean(source, lengths)
            raise RecipeError(f"no source is called '{source}'.", code="E-MIX-SHARE", where={"key": source}, fix=fix)
        if not lengths[source] or not 0 < share < math.inf:
            text = f"the share {share} of '{source}', which has {counted(len(lengths[source]), 'row')}, cannot be met."
            fix = "Shares are positive numbers; leave the source out to use none of it."
            raise RecipeError(text, code="E-MIX-SHARE", where={"key": source}, fix=fix)


def _passes(rows: int, seed: int, source: str) -> Iterator[int]:
    number = 0
    while True:
        order = list(range(rows))
        Random(f"{seed}|{source}|{number}").shuffle(order)
        yield from order
        number += 1
