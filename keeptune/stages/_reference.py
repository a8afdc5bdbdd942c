"""The reference of a KL term: the checkpoint that the stage started from, as it would be deployed.

Where the new adapter can be taken off, the reference is the same model without it, at the price of one more forward
pass. Where the base's own weights train, it is a second, frozen copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.engine.batch import PackedBatch
from keeptune.engine.head import Head, head_of
from keeptune.engine.learning import beside_training
from keeptune.engine.packed import packed_hidden

Stacks = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Reference:
    """A model to compare with.

    Attributes:
        model: the one that trains, or a frozen copy.
        stacks: the adapters that serve the rows of each source there.
        copied: whether it is a second copy, which memory must hold.
    """

    model: PreTrainedModel
    stacks: Stacks
    copied: bool

    @property
    def head(self) -> Head:
        """The reference's head."""
        return head_of(self.model)

    @torch.no_grad()
    def hidden(self, batch: PackedBatch, rows: Tensor) -> Tensor:
        """Hidden states [N, D] at the positions `rows`; only the segments that hold one of them are computed."""
        segments = sorted(set(batch.segment_of()[rows].tolist()))
        part, index = batch.select(segments)
        part = served(part, self.stacks)
        place = torch.searchsorted(index, rows)
        was_training = self.model.training
        self.model.eval()
        try:
            with beside_training():
                return packed_hidden(self.model, part.read_at(place))[place]
        finally:
            self.model.train(was_training)


def served(batch: PackedBatch, stacks: Stacks) -> PackedBatch:
    """The batch with the adapters of each row's source named."""
    adapters: list[tuple[str, ...] | None] = [stacks[source] for source in batch.sources]
    return replace(batch, adapters=adapters)
