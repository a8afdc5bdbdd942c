"""What rows begin with: a tree, in which what any two of them share comes once.

A beginning is what comes before a row's first learned token, less one token: that one predicts the first learned token,
another one in every row, so it stays with its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded

SHORTEST = 8
"""Tokens of a beginning that is worth an attention call of its own."""


class Part(NamedTuple):
    """The tokens `start` to `end` of a row, behind those of its parent.

    Attributes:
        row: its place; of those that share the part, the first.
        start: its first token.
        end: behind its last one; None for the end of a row, which belongs to that row alone.
        parent: what comes before it; None where it begins the row.
    """

    row: int
    start: int
    end: int | None
    parent: Part | None


def tree(rows: Sequence[Encoded], among: Sequence[object] | None = None) -> Iterator[Part]:
    """The parts of rows, each behind its parent; rows that begin alike stand together, in their order.

    Args:
        rows: of tokens; of a pair, one ending.
        among: for each row, what has to be equal besides its source.
    """
    lengths = [_beginning(row) for row in rows]
    groups: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        key = (row.source, None if among is None else among[place]) if lengths[place] >= SHORTEST else place
        groups.setdefault(key, []).append(place)
    for group in groups.values():
        yield from _branches({place: rows[place].tokens[: lengths[place]] for place in group})


def computed(rows: Sequence[Encoded]) -> int:
    """Tokens of all parts together."""
    endings = [ending for row in rows for ending in row.endings]
    ends = ((part, len(endings[part.row].tokens) if part.end is None else part.end) for part in tree(endings))
    return sum(end - part.start for part, end in ends)


def _branches(beginnings: dict[int, tuple[int, ...]]) -> Iterator[Part]:
    """The parts of rows that may share, by what they begin with."""
    left: list[tuple[Sequence[int], int, Part | None]] = [(list(beginnings), 0, None)]
    while left:
        places, start, parent = left.pop()
        if len(places) == 1:
            yield Part(places[0], start, None, parent)
            continue
        # All lie between the first and the last of them in lexicographic order, and so does what they share.
        of = [beginnings[place] for place in places]
        shared = _alike(min(of), max(of))
        if shared - start >= SHORTEST:
            parent, start = Part(places[0], start, shared, parent), shared
            yield parent
        branches: dict[object, list[int]] = {}
        for place in places:
            beginning = beginnings[place]
            branches.setdefault(beginning[shared] if len(beginning) > shared else (place,), []).append(place)
        left += [(branch, start, parent) for branch in reversed(branches.values())]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _beginning(row: Encoded) -> int:
    """Tokens of the row's beginning; 0 where nothing is learned."""
    first = next((at for at, learned in enumerate(row.learned) if learned), 0)
    return max(0, first - 1)
