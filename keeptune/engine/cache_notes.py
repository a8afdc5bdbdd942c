"""What a cache knows of its rows beside their keys and values, as a layer of its own that holds no tokens.

Whatever selects, repeats or reorders the cache's rows does the same to it.

Shapes: B rows, C columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DummyLayer

from keeptune.engine.selection import Stack


class CacheNote(DummyLayer):  # type: ignore[misc]
    """A layer that is attended to by nobody; what it says of rows, its subclass selects.

    Args:
        cache: that it is put into.
    """

    def __init__(self, cache: Any) -> None:
        super().__init__()
        self.is_sliding = getattr(cache.layers[0], "is_sliding", False)

    def get_seq_length(self) -> int:
        """It holds no tokens."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """It is attended to by nobody."""
        return query_length, 0

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to make."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams follow their rows."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows are kept, or copied."""
        raise NotImplementedError

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copies of a row share what is said of it."""
        raise NotImplementedError


TEXT, VIRTUAL, PAD = 0, 1, 2


class VirtualColumns(CacheNote):
    """Which columns of a cache are virtual tokens, and under which soft prompts each row was read.

    Attributes:
        kinds: `[B, C]`: `TEXT`, `VIRTUAL`, or `PAD` where another row has a virtual token; columns behind are text.
        stacks: that served when the cache was begun.
        stack: `[B]` which of them served each row.
    """

    def __init__(self, cache: Any, served: Sequence[Stack], device: torch.device) -> None:
        super().__init__(cache)
        self.stacks = list(dict.fromkeys(served))
        self.stack = torch.tensor([self.stacks.index(one) for one in served])
        self.kinds = torch.zeros(len(served), 0, dtype=torch.long, device=device)

    def served(self) -> list[Stack]:
        """The soft prompts of each row."""
        return [self.stacks[number] for number in self.stack.tolist()]

    def all_kinds(self, columns: int) -> Tensor:
        """`[B, C]` for so many columns of the cache."""
        return functional.pad(self.kinds, (0, columns - self.kinds.shape[1]))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows that are kept, or copied, keep theirs."""
        self.kinds, self.stack = self.kinds[indices.to(self.kinds.device)], self.stack[indices.cpu()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copies of a row have its columns."""
        self.kinds, self.stack = self.kinds.repeat_interleave(repeats, 0), self.stack.repeat_interleave(repeats)

    def crop(self, max_length: int) -> None:
        """Columns behind are taken off."""
        self.kinds = self.kinds[:, : max(0, max_length)] if max_length >= 0 else self.kinds


def columns_of(cache: Any) -> VirtualColumns | None:
    """The note of a cache on virtual tokens, if there are any."""
    layers = getattr(cache, "layers", ())
    return next((layer for layer in layers if isinstance(layer, VirtualColumns)), None)
