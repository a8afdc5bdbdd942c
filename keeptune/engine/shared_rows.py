"""Rows that begin alike: what they share is one segment, computed once, and its gradient is the sum of theirs.

K answers of A tokens to one prompt of P tokens are K (P + A) tokens as rows, and P + K A here. Losses and gradients
are those of the rows alone:

- the shared segment ends before the last token of the prompt, which each row keeps as its own first token: that token
  predicts the first token of the answer, another one in every row;
- a row's own segment attends to the shared one and to itself, and its positions go on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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

    The beginning of a row is what comes before its first learned token, less one token. Rows of one beginning stand
    together, in the order in which they came.

    Args:
        rows: encoded examples, each with at least one token; of a pair, both endings.
        adapters: the adapters that serve each row.
    """
    rows, pairs, adapters = whole(rows, adapters)
    groups = _groups(rows, adapters)
    if all(len(group) == 1 for group in groups):
        return replace(pack(rows, adapters=adapters), pairs=pairs)
    parts: list[Encoded] = []
    parents: list[int] = []
    starts: list[int] = []
    served: list[Stack | None] = []
    segments: dict[int, int] = {}
    for group in groups:
        first, shared = rows[group[0]], _beginning(rows[group[0]]) if len(group) > 1 else 0
        parent = len(parts) if shared else -1
        if shared:
            parts.append(replace(first, tokens=first.tokens[:shared], learned=(False,) * shared, starts=UNSAID))
            parents.append(-1)
            starts.append(0)
            served.append(None if adapters is None else adapters[group[0]])
        for place in group:
            row, segments[place] = rows[place], len(parts)
            parts.append(replace(row, tokens=row.tokens[shared:], learned=row.learned[shared:], starts=UNSAID))
            parents.append(parent)
            starts.append(shared)
            served.append(None if adapters is None else adapters[place])
    batch = pack(parts, adapters=None if adapters is None else served)
    moves = [start for start, length in zip(starts, batch.lengths, strict=True) for _ in range(length)]
    return replace(
        batch,
        positions=batch.positions + torch.tensor(moves),
        parents=parents,
        pairs=[(segments[better], segments[worse]) for better, worse in pairs],
    )


def _beginning(row: Encoded) -> int:
    """Tokens before the first learned one, less one; 0 where nothing is learned."""
    if not any(row.learned):
        return 0
    return max(0, sum(1 for _ in itertools.takewhile(lambda learned: not learned, row.learned)) - 1)


def _groups(rows: Sequence[Encoded], adapters: Sequence[Stack | None] | None) -> list[list[int]]:
    """Rows of the same source, adapters and beginning; a beginning too short to share is a row's own."""
    found: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        length = _beginning(row)
        served = None if adapters is None else adapters[place]
        key = (row.source, served, tuple(row.tokens[:length])) if length >= SHORTEST else place
        found.setdefault(key, []).append(place)
    return list(found.values())
