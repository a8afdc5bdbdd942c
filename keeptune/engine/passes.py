"""Passes: a layer that is computed again in the backward pass is served as it was in its forward pass.

Gradient checkpointing runs layers a second time while gradients flow, when the `rows` and `segments` of the forward
pass have usually been left. Each checkpoint therefore carries the state that it was made in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from keeptune.engine.segments import current_segments
from keeptune.engine.selection import Serving

if TYPE_CHECKING:
    from keeptune.engine.places import Book

State = tuple[Serving, Sequence[int] | None]


class Passes:
    """Who serves the layer that is computed now, in a forward pass or in its repetition."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._restored: State | None = None

    def state(self) -> State:
        """The serving and, in a packed pass, the offsets of its segments."""
        if self._restored is not None:
            return self._restored
        packed = current_segments()
        return self.book.serving, None if packed is None else packed.offsets

    @contextmanager
    def restored(self, state: State) -> Iterator[None]:
        """Inside, layers are served as `state` says."""
        before, self._restored = self._restored, state
        try:
            yield
        finally:
            self._restored = before

    def before(self, body: nn.Module, args: tuple[Any, ...]) -> None:
        """Pre-hook of the decoder's body: makes the checkpoints of its layers remember, whoever turned them on."""
        if not (body.training and torch.is_grad_enabled()):
            return
        for module in body.modules():
            function = module.__dict__.get("_gradient_checkpointing_func")
            if function is not None and not isinstance(function, Remembering):
                module.__dict__["_gradient_checkpointing_func"] = Remembering(function, self)

    def forget(self, body: nn.Module) -> None:
        """Gives the layers their own checkpoints back."""
        for module in body.modules():
            function = module.__dict__.get("_gradient_checkpointing_func")
            if isinstance(function, Remembering):
                module.__dict__["_gradient_checkpointing_func"] = function.checkpoint


class Remembering:
    """A checkpoint function whose repetition is served as the first time.

    Args:
        checkpoint: the function that the model would call: `checkpoint(layer, *args)`.
        passes: of the model's adapters.
    """

    def __init__(self, checkpoint: Callable[..., Any], passes: Passes) -> None:
        self.checkpoint, self.passes = checkpoint, passes

    def __call__(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the layer under the checkpoint, now and later in the state of now."""
        state = self.passes.state()

        def served(*inner: Any, **settings: Any) -> Any:
            with self.passes.restored(state):
                return layer(*inner, **settings)

        return self.checkpoint(served, *args, **kwargs)
