"""What serves the linear maps of one pass: looked up once, and kept for layers that are computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.engine.banks import update_of
from keeptune.engine.book import book_of
from keeptune.engine.deltas import Factors
from keeptune.engine.places import InputSlot, OutputSlot, Placed, Slot, apply
from keeptune.engine.selection import Selection

Deltas = list[tuple[Placed, Selection]]


@dataclass(frozen=True)
class Served:
    """The deltas of one pass, in the order in which they apply, by the path of their linear map.

    Attributes:
        inputs: those that change what a map is given.
        outputs: those that change what it returns.
    """

    inputs: dict[str, Deltas] = field(default_factory=dict)
    outputs: dict[str, Deltas] = field(default_factory=dict)

    def updates(self, path: str) -> list[Factors] | None:
        """The low-rank updates of a map, each for all tokens; None when something else serves it as well."""
        if path in self.inputs:
            return None
        found = [_factors(placed, selection) for placed, selection in self.outputs.get(path, ())]
        return None if None in found else [factors for factors in found if factors is not None]

    def given(self, path: str, x: Tensor) -> Tensor:
        """What a map is given, (T, in), changed by its deltas."""
        return _run(self.inputs.get(path, ()), x, x)

    def returned(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        """What a map returns, (T, out), changed by its deltas."""
        return _run(self.outputs.get(path, ()), x, y)


def served(model: PreTrainedModel, tokens: int) -> Served:
    """What serves the linear maps of `model` in the packed pass that is running."""
    found = Served()
    for slot, path, deltas in serving_slots(model, tokens):
        if isinstance(slot, InputSlot):
            found.inputs.setdefault(path, []).extend(deltas)
        elif isinstance(slot, OutputSlot):
            found.outputs.setdefault(path, []).extend(deltas)
    return found


def serving_slots(model: PreTrainedModel, tokens: int) -> Iterator[tuple[Slot, str, Deltas]]:
    """The slots that have a delta for this pass: (slot, path of its module, deltas)."""
    book = book_of(model)
    if book is None:
        return
    plan = book.plan(torch.Size([1, tokens]), model.device)
    for place, slot in book.slots.items():
        deltas = [(placed, part) for part in plan for placed in slot.entries.get(part.adapter, ())]
        if deltas:
            yield slot, place.path, deltas


def _factors(placed: Placed, selection: Selection) -> Factors | None:
    return update_of(placed.delta, placed.composition) if selection.tokens is None else None


def _run(deltas: Sequence[tuple[Placed, Selection]], x: Tensor, h: Tensor) -> Tensor:
    """Deltas see a batch, (1, T, ...), as they do behind a hook."""
    if not deltas:
        return h
    x, h = x[None], h[None]
    for placed, selection in deltas:
        h = apply(placed, x, h, selection)
    return h[0]
