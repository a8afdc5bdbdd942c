"""The parts of a row: where its request ends and an answer begins, and where its texts begin.

Policies decide by the request, and a template has soft tokens before each answer or between texts. Which tokens are it?

- In a packed batch, those before the first one that is learned or scored.
- In a padded batch with labels, those before the first label (a row's first token is never one: nothing predicts it).
- Else everything that the first call with an empty cache is given, or what `divided` says.

A row of which nothing is learned is all request; no request is empty. The answer is never looked at, so training does
what generation does. In a conversation every run of learned tokens, or of labels, is an answer. That says nothing of
answers that are only read, so rows say where theirs begin (`keeptune.data.starts`).

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

from keeptune.core.errors import PlanError
from keeptune.data.starts import LOST, UNSAID, Starts
from keeptune.engine.batch import IGNORED

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch

_starting: ContextVar[tuple[Starts, ...] | None] = ContextVar("starting", default=None)


@contextmanager
def divided(
    texts: Sequence[Sequence[int]] | None = None, answers: Sequence[Sequence[int]] | None = None
) -> Iterator[None]:
    """Inside, says of the rows of a padded batch where their parts begin, pads not counted; for templates.

    Of a row that goes on from a cache, what is cached counts too: an answer at all of its tokens is the next one.

    Args:
        texts: of each row, the tokens at which its texts begin, but the first.
        answers: of each row, the tokens at which its answers begin, also the one that is to be written: that is as many
            as the row has tokens.
    """
    count = len(texts if texts is not None else answers or ())
    rows = zip(texts or [()] * count, answers or [()] * count, strict=True)
    with starting(None if texts is answers is None else [Starts(tuple(one), tuple(other)) for one, other in rows]):
        yield


@contextmanager
def starting(starts: Sequence[Starts] | None) -> Iterator[None]:
    """As `divided`, in one value for each row; None: there is nothing to say."""
    token = _starting.set(None if starts is None else tuple(starts))
    try:
        yield
    finally:
        _starting.reset(token)


def starts_of_rows(count: int) -> list[Starts]:
    """What `divided` says of each of `count` rows, which may be beams: the same number of each row, on end."""
    found = _starting.get()
    if not found or count % len(found):
        return [UNSAID] * count
    return [starts for starts in found for _ in range(count // len(found))]


def requests(batch: PackedBatch) -> list[tuple[int, int]]:
    """Of each row, the tokens up to the one that predicts its first target: all of them where there is none."""
    has_target = (batch.targets != IGNORED).tolist()
    spans = []
    for start, end in itertools.pairwise(batch.offsets):
        first = next((place + 1 for place in range(start, end) if has_target[place]), end)
        spans.append((start, first))
    return spans


def answered(batch: PackedBatch) -> list[Starts]:
    """Of each row, where its parts begin; where it does not say, every run of targets is an answer."""
    has_target = (batch.targets != IGNORED).tolist()
    found = []
    for row, (start, end) in enumerate(itertools.pairwise(batch.offsets)):
        said = batch.starts[row].within(end - start) if batch.starts else UNSAID
        own = [False, *has_target[start:end]]  # before a row's first token there is none
        runs = tuple(place for place in range(1, len(own)) if own[place] > own[place - 1])
        found.append(Starts(said.texts, said.answers or runs or (end - start,)))
    return found


def first_answer(starts: Starts) -> int:
    """The token at which the first answer of a row begins.

    Raises:
        PlanError: it is lost in what the chat template writes (E-ROWS-TURNS).
    """
    if LOST in starts.answers:
        raise PlanError(
            "an earlier answer of this conversation cannot be found, and so neither what comes before it.",
            code="E-ROWS-TURNS",
            why="The chat template writes an earlier answer in another form than when it was the last.",
            fix="Use `template: plain`.",
        )
    return starts.answers[0]


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

    def starts(self, real: Tensor) -> list[Starts]:
        """Of each row of a first call, where its parts begin: as `divided` says, or where labels do.

        Args:
            real: `[B, T]`, which columns are no pads; those of a row stand together.
        """
        place = real.long().cumsum(1)
        counts: list[int] = place[:, -1].tolist()
        labelled = self._labelled(real, place)
        begins = labelled & ~nn.functional.pad(labelled, (1, -1))
        found = []
        for row, (said, count) in enumerate(zip(starts_of_rows(len(real)), counts, strict=True)):
            inside = said.within(count)
            runs = tuple((place[row, begins[row]] - 1).tolist())
            found.append(Starts(inside.texts, inside.answers or runs or (max(count, 1),)))
        return found

    def _labelled(self, real: Tensor, place: Tensor) -> Tensor:
        """`[B, T]`: the tokens that are learned."""
        if self._labels is None or self._labels.shape != real.shape:
            return torch.zeros_like(real, dtype=torch.bool)
        return (self._labels.to(real.device) != IGNORED) & real.bool() & (place > 1)

    def _hear(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._labels = kwargs.get("labels")

    def _forget(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._labels = None  # they belong to one call
