"""Rows that begin alike: what they share is one segment, computed once, and its gradient is the sum of theirs.

K answers of A tokens to one prompt of P tokens are K (P + A) tokens as rows, and P + K A here; so are K prompts behind
one instruction. Beginnings make a tree: rows may share an instruction, and some of them an example behind it. Losses
and gradients are those of the rows alone:

- a shared segment ends before the last token of a prompt at the latest, which each row keeps as its own first token:
  that token predicts the first token of the answer, another one in every row;
- a segment attends to those before it in its rows and to itself, and its positions go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from keeptune.data.beginnings import Part, tree
from keeptune.data.encode import Encoded
from keeptune.data.starts import UNSAID
from keeptune.engine.batch import PackedBatch, pack, whole
from keeptune.engine.book import book_of
from keeptune.engine.places import InputSlot, OutputSlot
from keeptune.engine.rotary import depends_on_length
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    from keeptune.engine.selection import Stack


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

    `data/beginnings.py` says what rows share; those that begin alike stand together, in the order in which they came.

    Args:
        rows: encoded examples, each with at least one token; of a pair, both endings.
        adapters: the adapters that serve each row.
    """
    rows, pairs, adapters = whole(rows, adapters)
    parts = list(tree(rows, adapters))
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


def _cut(row: Encoded, part: Part) -> Encoded:
    if part.start == 0 and part.end is None:
        return row
    return replace(
        row, tokens=row.tokens[part.start : part.end], learned=row.learned[part.start : part.end], starts=UNSAID
    )
