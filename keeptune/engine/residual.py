"""Beside a sublayer: its output, changed by what the residual stream was before the sublayer's norm.

    s --> norm --> sublayer --> h        h <- compose(h, delta(s, h))

Several kinds of place at one module run in the order in which the first adapter of each kind was attached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.engine.places import Book, Place, Slot


@dataclass(frozen=True)
class BesideSublayer(Place):
    """What a sublayer returns; its deltas see the residual stream as `x` instead of the sublayer's input.

    Attributes:
        norm: dotted path of the norm before the sublayer, or of whatever module reads the stream first.
    """

    norm: str = ""

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the norm before, and the sublayer after its forward pass."""
        slot = StreamSlot(book)
        norm, module = model.get_submodule(self.norm), model.get_submodule(self.path)
        slot.handles.append(norm.register_forward_pre_hook(slot.before))
        # Also when the pass is cut short, as recomputing under a checkpoint is: nothing may keep the stream alive.
        slot.handles.append(module.register_forward_hook(slot.after, always_call=True))
        return slot


class StreamSlot(Slot):
    """The hooks of `BesideSublayer`, and the stream on its way from one to the other."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self._stream: Tensor | None = None

    def before(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        """The pre-hook of the norm."""
        self._stream = args[0]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The hook of the sublayer."""
        stream, self._stream = self._stream, None
        if output is None or stream is None:
            return output
        if isinstance(output, tuple):
            return (self.run(stream, output[0]), *output[1:])
        return self.run(stream, output)
