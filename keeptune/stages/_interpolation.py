"""The straight line of weights from the base to an adapted model, and what lies on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.commit import write_commit
from keeptune.engine.book import base_state_dict, book_of
from keeptune.models.writing import save_model

if TYPE_CHECKING:
    from keeptune.models.load import Loaded


@dataclass
class Line:
    """Tensors of a model that move, and their two ends.

    Attributes:
        loaded: the model; `put` changes its weights.
        places: the tensors, in the model.
        start: of each, its value at 0, in float32.
        end: of each, its value at 1.
        adapter: whose update is scaled; None: the base's own weights move.
    """

    loaded: Loaded
    places: list[Tensor]
    start: list[Tensor]
    end: list[Tensor]
    adapter: str | None

    @torch.no_grad()
    def put(self, alpha: float) -> None:
        """The weights at `alpha`: start + alpha (end - start), computed in float32; exact at 0 and at 1."""
        for place, start, end in zip(self.places, self.start, self.end, strict=True):
            place.copy_(end if alpha == 1 else torch.lerp(start, end, alpha))


def line_of(loaded: Loaded, base: Loaded, checkpoint: Checkpoint, before: Checkpoint) -> Line | None:
    """The line of a checkpoint; None when what was adapted last is an adapter that has no strength.

    Args:
        loaded: the adapted model, adapters attached; its weights will move.
        base: where the line starts.
        checkpoint: of the adapted model.
        before: of the base.
    """
    if checkpoint.base == before.base:
        return _of_lora(loaded, checkpoint.adapters[-1].name) if checkpoint.adapters else None
    own, first = base_state_dict(loaded.model), base.model.state_dict()
    names = [name for name, tensor in own.items() if tensor.is_floating_point() and name in first]
    moved = [name for name in names if not torch.equal(own[name], first[name])]
    return Line(
        loaded,
        [own[name] for name in moved],
        [first[name].float() for name in moved],
        [own[name].float().clone() for name in moved],
        None,
    )


def _of_lora(loaded: Loaded, name: str) -> Line | None:
    """LoRA's update is B A: it is scaled by scaling B."""
    book = book_of(loaded.model)
    assert book is not None, "the checkpoint has an adapter"
    adapter = book.adapter(name)
    if {method.name for method in adapter.methods} != {"lora"}:
        return None
    places = [tensor for key, tensor in adapter.named_parameters() if key.rsplit(".", 1)[-1].endswith("lora_B")]
    return Line(
        loaded,
        [place.data for place in places],
        [torch.zeros_like(place, dtype=torch.float32) for place in places],
        [place.detach().float().clone() for place in places],
        name,
    )


def write(line: Line, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Commits the weights that are in place, and gives the checkpoint with them."""
    from keeptune.methods import save_adapter

    model, name = line.loaded.model, line.adapter

    def fill(path: Path) -> None:
        if name is None:
            save_model(line.loaded, path, base_state_dict(model))
        else:
            save_adapter(model, name, path)

    path = write_commit(folder, "model" if name is None else "adapter", fill, info={"adapter": name})
    if name is None:
        return replace(checkpoint, base=str(path), revision=None)
    last = checkpoint.adapters[-1]
    return replace(checkpoint, adapters=(*checkpoint.adapters[:-1], AdapterRef(last.name, path, last.scope)))
