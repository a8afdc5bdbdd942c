"""Rows that begin alike: what they share is one segment, computed once, and its gradient is the sum of theirs.

K answers of A tokens to one prompt of P tokens are K (P + A) tokens as rows, and P + K A here; so are K prompts behind
one instruction. Beginnings make a tree: rows may share an instruction, and some of them an example behind it. Losses
and gradients are those of the rows alone:

- a shared segment ends before the last token of a prompt at the latest, which each row keeps as its own first token:
  that token predicts the first token of the answer, another one in every row;
- a segment attends to those before it in its rows and to itself, and its positions go on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import PreTrainedModel

from keeptune.data.encode import Encoded
from keeptune.data.starts import UNSAID
from keeptune.engine.batch import PackedBatch, pack, whole
from keeptune.engine.book import book_of
from keeptune.engine.places import InputSlot, OutputSlot
from keeptune.engine.rotary import depends_on_length
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    from keeptune.engine.selection import Stack

SHORTEST = 8
"""Tokens of a beginning that is worth an attention call of its own."""


def can_share(model: PreTrainedModel) -> bool:
    """Whether rows may share their beginning: nothing acts on a row as a whole.

    Soft prompts, prefixes, heads and gates per row do, and so do rotary frequencies that depend on a row's length. In
    an encoder every token sees the whole row.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is not None and family.kind != "decoder":
        return False
    book = book_of(model)
    slots = [] if book is None else book.slots.values()
    return all(isinstance(slot, (InputSlot, OutputSlot)) for slot in slots) and not depends_on_length(model.config)


def pack_shared(rows: Sequence[Encoded], *, adapters: Sequence[Stack | None] | None = None) -> PackedBatch:
    """`pack`, with a segment of its own for each beginning that rows of one source share.

    The beginning of a row is what comes before its first learned token, less one token. Rows that begin alike stand
    together, in the order in which they came.

    Args:
        rows: encoded examples, each with at least one token; of a pair, both endings.
        adapters: the adapters that serve each row.
    """
    rows, pairs, adapters = whole(rows, adapters)
    parts = [part for group in _groups(rows, adapters) for part in _tree(rows, group)]
    if all(part.parent is None for part in parts):
        return replace(pack(rows, adapters=adapters), pairs=pairs)
    batch = pack(
        [_cut(rows[part.row], part) for part in parts],
        adapters=None if adapters is None else [adapters[part.row] for part in parts],
    )
    places = {id(part): place for place, part in enumerate(parts)}
    segments = {part.row: place for place, part in enumerate(parts) if part.end is None}
    moves = [part.start for part, length in zip(parts, batch.lengths, strict=True) for _ in range(length)]
    return replace(
        batch,
        positions=batch.positions + torch.tensor(moves),
        parents=[-1 if part.parent is None else places[id(part.parent)] for part in parts],
        pairs=[(segments[better], segments[worse]) for better, worse in pairs],
    )


class Part(NamedTuple):
    """A segment: the tokens `start` to `end` of a row, behind those of its parent.

    Attributes:
        row: of the batch; any of those that share it.
        start: its first token.
        end: behind its last one; None for the end of a row, which belongs to that row alone.
        parent: what comes before it; None where it begins the row.
    """

    row: int
    start: int
    end: int | None
    parent: Part | None


def _cut(row: Encoded, part: Part) -> Encoded:
    if part.start == 0 and part.end is None:
        return row
    return replace(
        row, tokens=row.tokens[part.start : part.end], learned=row.learned[part.start : part.end], starts=UNSAID
    )


def _tree(rows: Sequence[Encoded], group: Sequence[int]) -> Iterator[Part]:
    """The segments of rows that may share: what any two of them begin with, if it is long enough, comes once."""
    beginnings = {place: rows[place].tokens[: _beginning(rows[place])] for place in group}
    left: list[tuple[Sequence[int], int, Part | None]] = [(group, 0, None)]
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
    """Tokens before the first learned one, less one; 0 where nothing is learned."""
    if not any(row.learned):
        return 0
    return max(0, sum(1 for _ in itertools.takewhile(lambda learned: not learned, row.learned)) - 1)


def _groups(rows: Sequence[Encoded], adapters: Sequence[Stack | None] | None) -> list[list[int]]:
    """Rows of the same source and adapters that may share; a beginning too short to share leaves a row alone."""
    found: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        served = None if adapters is None else adapters[place]
        key = (row.source, served) if _beginning(row) >= SHORTEST else place
        found.setdefault(key, []).append(place)
    return list(found.values())
