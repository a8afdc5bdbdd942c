"""Readout: what an adapter reads off hidden states, beside what the model itself answers.

A readout changes nothing in the forward pass. It gets the states of each row's request (the tokens before its first
target; all of them where there is none) and answers with one score per label. Rows may have different readouts: each
is served by the last one in its stack.

Shapes: S rows, T tokens of all rows, D width, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.batch import PackedBatch
from keeptune.engine.deltas import Delta
from keeptune.engine.images import image_states
from keeptune.engine.packed import packed_states
from keeptune.engine.padded import States
from keeptune.engine.places import Nowhere
from keeptune.engine.request_parts import requests

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters

Span = tuple[int, int]


class Readout(Delta):
    """A function from the states of rows to scores.

    Attributes:
        labels: what the scores are of, in order.
    """

    labels: tuple[str, ...]

    def scores(self, layers: Sequence[Tensor], spans: Sequence[Span]) -> Tensor:
        """`[S, C]`, in float32 or wider.

        Args:
            layers: `[T, D]` of the embeddings and behind each block, the last behind the final norm.
            spans: the tokens of each row.
        """
        raise NotImplementedError

    @property
    def lowest(self) -> int:
        """Index of the lowest states that it reads, as in `layers`; 0 for whoever does not say."""
        return 0

    def scores_of(self, model: PreTrainedModel, states: States, spans: Sequence[Span], rows: Sequence[int]) -> Tensor:
        """`[S, C]` of the chosen rows of a batch; most readouts look at the states of their tokens and no more.

        Args:
            model: the one that computed the states.
            states: of the whole batch.
            spans: the tokens of every row.
            rows: that are asked for.
        """
        return self.scores(states.layers, [spans[row] for row in rows])


@dataclass(frozen=True)
class Reading(Nowhere):
    """Behind the model's body. Its deltas are `Readout`s."""

    def name_of(self, parameter: str) -> str:
        """An adapter has one readout."""
        return f"head.{parameter}"


class Answer(NamedTuple):
    """The scores of one row's labels: `[C]`, and the labels."""

    scores: Tensor
    labels: tuple[str, ...]


def reads(model: PreTrainedModel, stack: Sequence[str]) -> bool:
    """Whether a stack of adapters holds a readout."""
    book: Adapters | None = model._modules.get("keeptune")
    return book is not None and any(_readout(book, name) is not None for name in stack)


def answers(model: PreTrainedModel, batch: PackedBatch, states: States | None = None) -> list[Answer]:
    """What the readouts of a batch's rows say.

    Args:
        model: with the adapters attached.
        batch: the rows; its `adapters`, when given, choose what serves each of them.
        states: of that batch with all layers; computed when left out.

    Raises:
        PlanError: a row is served by no readout (E-HEAD-NONE).
    """
    states = packed_states(model, batch, layers=True) if states is None else states
    return read_out(model, batch, states, requests(batch) if states.spans is None else states.spans)


def read_out(model: PreTrainedModel, batch: PackedBatch | None, states: States, spans: Sequence[Span]) -> list[Answer]:
    """The same from states that were computed elsewhere; without a batch, who serves now serves every row."""
    book: Adapters | None = model._modules.get("keeptune")
    if batch is not None and batch.adapters is not None:
        stacks = [tuple(stack or ()) for stack in batch.adapters]
    else:
        stacks = list(book.serving.stack_of_rows(len(spans))) if book else [()] * len(spans)
    chosen = [_last(book, stack) for stack in stacks]
    found: dict[int, Answer] = {}
    for readout in dict.fromkeys(chosen):
        rows = [row for row, own in enumerate(chosen) if own is readout]
        scores = readout.scores_of(model, states, spans, rows)
        found.update({row: Answer(score, readout.labels) for row, score in zip(rows, scores, strict=True)})
    return [found[row] for row in range(len(spans))]


def image_answers(model: PreTrainedModel, pixel_values: Tensor) -> list[Answer]:
    """What the readouts of an image encoder say about `[B, channels, height, width]`; who serves now, serves."""
    states = image_states(model, pixel_values, layers=True)
    return read_out(model, None, states, states.spans or [])


def _readout(book: Adapters, name: str) -> Readout | None:
    parts = book.adapter(name).placed
    return next((p.delta for part in parts for p in part if isinstance(p.delta, Readout)), None)


def _last(book: Adapters | None, stack: Sequence[str]) -> Readout:
    for name in reversed(stack):
        readout = None if book is None else _readout(book, name)
        if readout is not None:
            return readout
    raise PlanError(
        "a row is served by no head, so there are no scores of labels.",
        code="E-HEAD-NONE",
        fix="Train with the method `head` (alone or in a list), or take the loss `label` out.",
    )
