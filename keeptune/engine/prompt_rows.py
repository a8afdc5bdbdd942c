"""The virtual tokens of each row: those of the prompts in its stack, one after the other.

In an encoder-decoder some may stand behind the text, where a template says so; in a row's block they come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from keeptune.engine.deltas import Placed
from keeptune.engine.selection import Stack

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters


class Surrounding(NamedTuple):
    """The virtual tokens of a row of an encoder-decoder: `[front; text; behind; tail of the text]`.

    Attributes:
        front: virtual tokens before the text.
        behind: virtual tokens behind it.
        tail: special tokens at the end of the text that stay behind those.
    """

    front: int
    behind: int
    tail: int


NO_VIRTUAL = Surrounding(0, 0, 0)


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
        front, behind = list[Tensor](), list[Tensor]()
        for delta in self._deltas(stack):
            whole = delta.virtual().to(dtype)
            front.append(whole[: len(whole) - _behind(delta)])
            behind.append(whole[len(whole) - _behind(delta) :])
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        return torch.cat([*front, *behind, weight.new_zeros(0, weight.shape[1]).to(dtype)])

    def length(self, stack: Stack) -> int:
        """Their number."""
        return sum(delta.room for delta in self._deltas(stack))

    def around(self, stack: Stack) -> Surrounding:
        """How many stand on each side of the text, and what of the tokenizer's own stays behind them."""
        deltas = self._deltas(stack)
        behind = sum(map(_behind, deltas))
        tail = max((delta.frame[1] for delta in deltas if _behind(delta)), default=0)
        return Surrounding(self.length(stack) - behind, behind, tail)

    def block(self, stacks: Sequence[Stack], width: int) -> Tensor:
        """`[B, W, D]`: the virtual tokens of each row, flush right."""
        kinds = list(dict.fromkeys(stacks))
        blocks = [self.virtual(stack, self.embedding.weight.dtype) for stack in kinds]  # type: ignore[arg-type]
        flush = torch.stack([nn.functional.pad(block, (0, 0, width - len(block), 0)) for block in blocks])
        return flush[torch.tensor([kinds.index(stack) for stack in stacks], device=flush.device)]

    def _deltas(self, stack: Stack) -> list[Any]:
        return [placed.delta for name in stack for placed in self.entries[name]]


def _behind(delta: Any) -> int:
    """Of its vectors, how many stand behind the text: none but in a template."""
    return int(getattr(delta, "behind", 0))
