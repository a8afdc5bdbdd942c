"""The virtual tokens of each row: those of the prompts in its stack, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from keeptune.engine.deltas import Placed
from keeptune.engine.selection import Stack

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters


@dataclass(frozen=True)
class PromptRows:
    """What the prompts at one input embedding say about rows.

    Attributes:
        book: who serves whom.
        entries: the prompts of each adapter.
        embedding: of the model.
    """

    book: Adapters
    entries: Mapping[str, list[Placed]]
    embedding: nn.Module

    def stacks(self, count: int) -> list[Stack]:
        """The prompts among the adapters that serve each of `count` rows."""
        stacks = self.book.serving.stack_of_rows(count)
        return [tuple(name for name in stack if name in self.entries) for stack in stacks]

    def virtual(self, stack: Stack, dtype: torch.dtype) -> Tensor:
        """`[p, D]`: the virtual tokens of one stack."""
        parts = [placed.delta.virtual().to(dtype) for name in stack for placed in self.entries[name]]
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        return torch.cat(parts) if parts else torch.zeros(0, weight.shape[1], dtype=dtype, device=weight.device)

    def length(self, stack: Stack) -> int:
        """Their number."""
        return sum(placed.delta.room for name in stack for placed in self.entries[name])

    def block(self, stacks: Sequence[Stack], width: int) -> Tensor:
        """`[B, W, D]`: the virtual tokens of each row, flush right."""
        kinds = list(dict.fromkeys(stacks))
        blocks = [self.virtual(stack, self.embedding.weight.dtype) for stack in kinds]  # type: ignore[arg-type]
        flush = torch.stack([nn.functional.pad(block, (0, 0, width - len(block), 0)) for block in blocks])
        return flush[torch.tensor([kinds.index(stack) for stack in stacks], device=flush.device)]
