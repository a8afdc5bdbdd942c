"""The request of a row: where it ends and the answer begins, and where its texts begin.

Policies decide by the request, and a template has soft tokens behind it or between its texts. Which tokens are it?

- In a packed batch, those before the first one that is learned or scored.
- In a padded batch with labels, those before the first label (a row's first token is never one: nothing predicts it).
- Else everything that the first call with an empty cache is given, or what `prompted` says.

A row of which nothing is learned is all request; no request is empty. The answer is never looked at, so training does
what generation does.

A decoder and an encoder-decoder read one text per line, and no token says for sure where a text ends: a packed batch
says it, and of a padded one `divided`. An encoder's tokenizer puts separators between texts.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from keeptune.engine.batch import IGNORED

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch

_prompted: ContextVar[tuple[int, ...] | None] = ContextVar("prompted", default=None)
_divided: ContextVar[tuple[tuple[int, ...], ...] | None] = ContextVar("divided", default=None)


@contextmanager
def prompted(lengths: Sequence[int]) -> Iterator[None]:
    """Inside, the first `lengths[i]` tokens of row i are its request; for text that is written without a cache."""
    token = _prompted.set(tuple(lengths))
    try:
        yield
    finally:
        _prompted.reset(token)


@contextmanager
def divided(starts: Sequence[Sequence[int]] | None) -> Iterator[None]:
    """Inside, the texts of row i but the first begin at its tokens `starts[i]`; None: there is nothing to say."""
    token = _divided.set(None if starts is None else tuple(map(tuple, starts)))
    try:
        yield
    finally:
        _divided.reset(token)


def starts_of_rows(count: int) -> list[tuple[int, ...]]:
    """What `divided` says of each of `count` rows, which may be beams: the same number of each row, on end."""
    found = _divided.get()
    if not found or count % len(found):
        return [()] * count
    return [starts for starts in found for _ in range(count // len(found))]


def requests(batch: PackedBatch) -> list[tuple[int, int]]:
    """Of each row, the tokens up to the one that predicts its first target: all of them where there is none."""
    has_target = (batch.targets != IGNORED).tolist()
    spans = []
    for start, end in itertools.pairwise(batch.offsets):
        first = next((place + 1 for place in range(start, end) if has_target[place]), end)
        spans.append((start, first))
    return spans


class RequestEnds:
    """Where the requests of padded batches end, for a slot whose hooks run inside the model's forward pass."""

    def __init__(self) -> None:
        self._labels: Tensor | None = None

    def listen(self, model: nn.Module) -> list[Any]:
        """Hooks the model, whose labels say where answers begin; gives the handles."""
        return [
            model.register_forward_pre_hook(self._hear, with_kwargs=True),
            model.register_forward_hook(self._forget, always_call=True),
        ]

    def lengths(self, real: Tensor) -> Tensor:
        """`[B, 1]`: tokens of each row's request, at least one.

        Args:
            real: `[B, T]`, which columns are no pads; those of a row stand together.
        """
        place = real.long().cumsum(1)
        count, lengths = place[:, -1:], _prompted.get()
        if lengths is not None:
            return torch.tensor(lengths, device=real.device)[:, None].minimum(count).clamp(min=1)
        if self._labels is None or self._labels.shape != real.shape:
            return count.clamp(min=1)
        labelled = (self._labels.to(real.device) != IGNORED) & real.bool() & (place > 1)
        return torch.where(labelled, place - 1, count).amin(dim=1, keepdim=True).clamp(min=1)

    def _hear(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._labels = kwargs.get("labels")

    def _forget(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._labels = None  # they belong to one call
