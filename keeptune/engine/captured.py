"""Captured: the states between the blocks of one forward pass, as adapters on the blocks leave them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.models.anatomy import anatomy_of


def capturing(model: PreTrainedModel, wanted: bool) -> AbstractContextManager[list[Tensor]]:
    """`captured`, or an empty list that stays empty."""
    return captured(model) if wanted else nullcontext([])


def block_count(model: PreTrainedModel) -> int:
    """Blocks whose states are captured: all, or the encoder's of an encoder-decoder."""
    layers = anatomy_of(model).layers
    return next((place for place, layer in enumerate(layers) if layer.cross), len(layers))


@contextmanager
def captured(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside, a forward pass fills the list: the embeddings `[B, T, D]`, then what each block returns.

    In an encoder-decoder the blocks are the encoder's. The hooks stand behind those of all adapters.
    """
    layers = anatomy_of(model).layers[: block_count(model)]
    blocks: Sequence[nn.Module] = [model.get_submodule(layer.block) for layer in layers]
    states: list[Tensor] = []

    def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
