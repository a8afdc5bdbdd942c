"""Passes: a layer that is computed again in the backward pass is served as it was in its forward pass.

Gradient checkpointing runs layers a second time while gradients flow, when the `rows` and `segments` of the forward
pass have usually been left. The state of a forward pass that records gradients is therefore remembered until its
backward pass; `checkpoint_layers` ties it to each checkpoint, which stays right with any number of forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.attention import Segments, current_segments
from keeptune.engine.selection import Serving

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters

State = tuple[Serving, Sequence[int] | None]


class Passes:
    """The states of the forward passes that a backward pass may repeat."""

    def __init__(self) -> None:
        self._open: list[State] = []
        self._in_backward = False
        self._restored: State | None = None

    def current(self, serving: Serving, packed: Segments | None) -> State:
        """What serves the layer that is computed now: as given in a forward pass, as remembered in a backward pass.

        Raises:
            PlanError: several passes are waiting for their backward pass, and it is not known whose layer this is
                (E-ROWS-CHECKPOINTING).
        """
        if self._restored is not None:
            return self._restored
        state = (serving, None if packed is None else packed.offsets)
        if torch._C._current_graph_task_id() == -1:
            self._remember(state)
            return state
        self._in_backward = True
        if len(self._open) > 1:
            raise PlanError(
                "several forward passes with different rows share one backward pass that computes layers again.",
                code="E-ROWS-CHECKPOINTING",
                fix="Turn gradient checkpointing on with `keeptune.engine.passes.checkpoint_layers(model)`.",
            )
        return self._open[0] if self._open else state

    @contextmanager
    def restored(self, state: State) -> Iterator[None]:
        """Inside, layers are served as `state` says."""
        before, self._restored = self._restored, state
        try:
            yield
        finally:
            self._restored = before

    def _remember(self, state: State) -> None:
        if not torch.is_grad_enabled():
            return
        if self._in_backward:
            self._open.clear()
            self._in_backward = False
        if not any(serving is state[0] and offsets == state[1] for serving, offsets in self._open):
            self._open = [*self._open[-1:], state]


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Turns on gradient checkpointing: layers keep no activations and are computed again in the backward pass.

    Gradients are those without checkpointing, bitwise on one device, whatever `rows` and `segments` the forward
    passes ran in.
    """
    settings = {"use_reentrant": False, "context_fn": partial(_both_times, model)}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)


def _both_times(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The context of a checkpoint's forward pass (as it is), and of its repetition (as it was)."""
    book: Adapters | None = model._modules.get("keeptune")
    if book is None:
        return nullcontext(), nullcontext()
    packed = current_segments()
    state = (book.serving, None if packed is None else packed.offsets)
    return nullcontext(), book.passes.restored(state)
