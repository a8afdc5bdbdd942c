"""The part of a model that a stage does not change, computed once for all of its epochs.

Where only top layers train, the states that enter the lowest of them are the same in every epoch. They are computed for
the rows of the plan before the first step, kept in the cache that runs share, and every step goes on from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.data.encode import Encoded
from keeptune.engine.batch import PackedBatch
from keeptune.engine.book import book_of
from keeptune.engine.places import Slot
from keeptune.engine.readout import Reading, Readout
from keeptune.engine.shared_rows import can_share
from keeptune.engine.trunk import from_trunk, trunk_states
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import FAMILIES
from keeptune.models.tensor_store import TensorStore
from keeptune.stages._plan import Plan

LIMIT_BYTES = 2 << 30
"""Of states held in memory; a stage with more computes the whole model in every step."""


@dataclass
class Trunk:
    """The states of every row of a stage.

    Attributes:
        model: the one that trains.
        cut: the lowest layer that trains.
        states: (tokens, D) of each row, by source and id.
    """

    model: PreTrainedModel
    cut: int
    states: dict[tuple[str, str], Tensor]

    def hidden(self, batch: PackedBatch) -> Tensor:
        """What `packed_hidden` gives, (T, D), going on from the cut."""
        parts = [
            self.states[key][batch.positions[start:end].cpu()]
            for key, (start, end) in zip(
                zip(batch.sources, batch.ids, strict=True), itertools.pairwise(batch.offsets), strict=True
            )
        ]
        return from_trunk(self.model, batch, torch.cat(parts), self.cut)

    def covers(self, batch: PackedBatch) -> bool:
        """Whether the states of all its rows are there; those of dev rows are not."""
        return all(key in self.states for key in zip(batch.sources, batch.ids, strict=True))


def trunk_of(model: PreTrainedModel, plan: Plan, cache: Path | None) -> Trunk | None:
    """The trunk of a stage, where it saves work: something lies below the cut, and rows come more than once.

    Args:
        model: with everything attached, trained and frozen adapters alike.
        plan: of the stage.
        cache: the folder that runs share; None keeps the states in memory alone.
    """
    cut = lowest_changed_layer(model)
    drawn = plan.unique_rows()
    rows = [ending for row in drawn for ending in row.endings]
    alone = can_share(model) or cut == len(anatomy_of(model).layers)  # above all layers, a head looks at whole rows
    family = FAMILIES.get(model.config.model_type)
    images = family is not None and family.kind == "image"  # their rows are pixels, which a trunk does not read
    if images or cut == 0 or plan.drawn <= len(drawn) or not alone or not _named_apart(rows):
        return None
    width = model.get_input_embeddings().weight
    if sum(len(row.tokens) for row in rows) * width.shape[1] * width.element_size() > LIMIT_BYTES:
        return None
    try:
        found = trunk_states(model, rows, cut, store=None if cache is None else TensorStore(cache / "trunks"))
    except PlanError:
        return None
    keys = [(row.source, row.id) for row in rows]
    return Trunk(model, cut, dict(zip(keys, found, strict=True)))


def lowest_changed_layer(model: PreTrainedModel) -> int:
    """Index of the lowest layer in which a parameter trains or an adapter acts; their number when all is above."""
    layers = anatomy_of(model).layers
    blocks = {layer.block: layer.index for layer in layers}
    book = book_of(model)
    slots = {} if book is None else book.slots
    paths = [place.path for place in slots if not isinstance(place, Reading)]
    read = [_lowest_read(slot) for place, slot in slots.items() if isinstance(place, Reading)]
    paths += [
        name for name, each in model.named_parameters() if each.requires_grad and not name.startswith("keeptune.")
    ]
    found = [_layer_of(path, blocks, len(layers), anatomy_of(model).final_norm) for path in paths]
    # States between the blocks are not kept: a head reads the last ones, or the whole model is computed.
    found += [len(layers) if lowest == len(layers) else 0 for lowest in read]
    return min(found, default=0)


def _lowest_read(slot: Slot) -> int:
    """Index of the lowest states that a head behind the body reads."""
    placed = [one for entries in slot.entries.values() for one in entries]
    return min((one.delta.lowest for one in placed if isinstance(one.delta, Readout)), default=0)


def _layer_of(path: str, blocks: dict[str, int], above: int, final_norm: str) -> int:
    for block, index in blocks.items():
        if path == block or path.startswith(f"{block}."):
            return index
    return above if path == final_norm or path.startswith(f"{final_norm}.") else 0


def _named_apart(rows: Sequence[Encoded]) -> bool:
    """Whether source and id tell the rows apart; a long row that was split has one id for all its parts."""
    return len({(row.source, row.id) for row in rows}) == len(rows)
