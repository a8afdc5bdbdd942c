"""Segments: where the rows of a packed batch begin and end, and which forward pass is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


@dataclass(frozen=True)
class Segments:
    """Where the rows of a packed batch begin and end.

    Attributes:
        offsets: 0 = offsets[0] <= offsets[1] <= ... <= offsets[S] = T.
        parents: for each segment the earlier one whose tokens come before its own, or -1; None: every segment is a row.
    """

    offsets: tuple[int, ...]
    parents: tuple[int, ...] | None = None
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """What depends on the rows alone, made once for all layers."""
        if key not in self._made:
            self._made[key] = make()
        found: Made = self._made[key]
        return found

    def path(self, segment: int) -> list[int]:
        """The segments that make up a row: those before `segment`, the first one first, and itself."""
        assert self.parents is not None, "without parents every segment is a row"
        found = [segment]
        while self.parents[found[0]] >= 0:
            found.insert(0, self.parents[found[0]])
        return found

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [end - start for start, end in itertools.pairwise(self.offsets)]

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each segment, with all that comes before its own."""
        return self.once(("row lengths",), self._row_lengths)

    def _row_lengths(self) -> list[int]:
        found = self.lengths
        for segment, parent in enumerate(self.parents or ()):
            found[segment] += found[parent] if parent >= 0 else 0
        return found

    @property
    def row_offsets(self) -> list[int]:
        """S + 1 numbers: where the tokens that each segment sees begin, laid one after the other."""
        return [0, *itertools.accumulate(self.row_lengths)]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.row_lengths, default=0)

    def bounds(self, device: torch.device) -> Tensor:
        """The offsets as int32 on `device`."""
        return self.once(("bounds", device), lambda: torch.tensor(self.offsets, dtype=torch.int32, device=device))

    def row_bounds(self, device: torch.device) -> Tensor:
        """The row offsets as int32 on `device`."""
        make = partial(torch.tensor, self.row_offsets, dtype=torch.int32, device=device)
        return self.once(("row bounds", device), make)

    def runs(self) -> list[tuple[int, int]]:
        """(L, N): N neighbours of equal length L, which one kernel call serves; empty rows are left out."""
        return [(length, len(list(same))) for length, same in itertools.groupby(self.lengths) if length]

    def band(self, length: int, window: int | None, device: torch.device, *, causal: bool = True) -> Tensor:
        """Boolean (L, L): query i sees key j when |i - j| < window, and j <= i if causal. Made once for all layers."""
        made = causal_band if causal else two_sided_band
        return self.once((length, window, device, causal), lambda: made(length, length, window, device))

    def behind(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """Boolean (queries, keys): the last `queries` rows of the causal band of a row of `keys` tokens."""
        key = ("behind", queries, keys, window, device)
        return self.once(key, lambda: causal_band(keys, keys, window, device)[-queries:])


_current: ContextVar[Segments | None] = ContextVar("segments", default=None)


@contextmanager
def segments(offsets: Sequence[int], parents: Sequence[int] | None = None) -> Iterator[Segments]:
    """Inside it, a forward pass reads its (1, T) input as packed rows, or as a tree of segments that rows share."""
    packed = Segments(tuple(int(offset) for offset in offsets), None if parents is None else tuple(parents))
    assert packed.offsets[:1] == (0,), "offsets begin at 0"
    assert list(packed.offsets) == sorted(packed.offsets), "offsets never fall"
    token = _current.set(packed)
    try:
        yield packed
    finally:
        _current.reset(token)


def current_segments() -> Segments | None:
    """The rows of the packed forward pass that is running, or None."""
    return _current.get()


def causal_band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (queries, keys): query i sees key j when j <= i and, given a window, j > i - window."""
    behind = torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)[None, :]
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)


def two_sided_band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (queries, keys): query i sees key j when, given a window, |i - j| < window."""
    away = (torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)[None, :]).abs()
    return away < (max(queries, keys) if window is None else window)
