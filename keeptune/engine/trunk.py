"""The trunk: the layers below the lowest one that trains. Its output does not change, so it is computed once.

A head, a probe or an adapter in the top layers reads the hidden states that enter layer `cut`; whatever lies below
gives the same states in every epoch, for every setting. `trunk_states` computes them, nothing above the cut, and keeps
them under a digest of the weights below the cut, the rows and the cut. `from_trunk` goes on from them.

Rows are packed in order of length, always in the same batches, so the same rows give the same states whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.digest import digest_of
from keeptune.core.errors import PlanError
from keeptune.data.encode import Encoded
from keeptune.data.packing import filled
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import PackedBatch, pack
from keeptune.engine.fused.body import fused_hidden
from keeptune.engine.fused.obstacle import obstacle
from keeptune.engine.generation import evaluating
from keeptune.engine.learning import beside_training
from keeptune.engine.rotary import depends_on_length
from keeptune.engine.rows import off
from keeptune.engine.segments import segments
from keeptune.models.anatomy import anatomy_of
from keeptune.models.tensor_store import TensorStore, tensors_digest

REVISION = 4
BATCH_TOKENS = 8192


class _Reached(Exception):
    """The forward pass has come to the cut."""


class Passed(nn.Module):
    """Stands where a layer of the trunk stood: gives on what it gets.

    Args:
        layer: that stood here; the body reads from it which mask it wants.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", "full_attention")

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """Identity."""
        return hidden


def trunk_states(
    model: PreTrainedModel, rows: Sequence[Encoded], cut: int, *, store: TensorStore | None = None
) -> list[Tensor]:
    """The hidden states of the base that enter layer `cut`; those that leave the last layer for `cut` = their number.

    Args:
        model: a decoder of a known family; its adapters are off.
        rows: N rows of tokens.
        cut: 0 to the number of layers.
        store: where they are kept; None computes them.

    Returns:
        For each row (tokens of the row, D), on the CPU, in the dtype of the model.

    Raises:
        PlanError: the model or the cut does not allow it (E-TRUNK-CUT, E-MODEL-ROPE).
    """
    layers = _layers(model, cut)
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].tokens), place))

    def make() -> dict[str, Tensor]:
        return {"states": torch.cat(list(_computed(model, layers, [rows[place] for place in order], cut)))}

    key = digest_of([REVISION, _weights_digest(model, list(layers)[:cut]), _rows_digest(rows), cut, torch.__version__])
    whole = (make() if store is None else store.once(key, make))["states"]
    parts = torch.split(whole, [len(rows[place].tokens) for place in order])
    found: list[Tensor] = [whole] * len(rows)
    for place, part in zip(order, parts, strict=True):
        found[place] = part
    return found


def from_trunk(model: PreTrainedModel, batch: PackedBatch, states_TD: Tensor, cut: int) -> Tensor:
    """The hidden states behind the final norm, going on from those that enter layer `cut`; gradients reach no lower.

    What serves the model now serves these layers.

    Args:
        model: as for `trunk_states`; it runs as if the layers below the cut were not there.
        batch: the rows.
        states_TD: the trunk's states of its tokens.
        cut: as it was for the states.

    Returns:
        (T, D).
    """
    layers = _layers(model, cut)
    weight = model.get_input_embeddings().weight
    use_attention(model)
    batch = batch.to(weight.device)
    states = states_TD.to(weight.device)[None]
    with segments(batch.offsets, batch.parents) as packed:
        if obstacle(model, len(batch.tokens)) is None:
            return fused_hidden(model, packed, batch.positions, states[0], first=cut, reads=batch.reads).hidden
    reader = _module_at(model, layers, cut)
    with _without(layers, cut), _entering(reader, states), segments(batch.offsets, batch.parents):
        output = model.base_model(input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False)
    hidden: Tensor = output.last_hidden_state.squeeze(0)
    return hidden


def _layers(model: PreTrainedModel, cut: int) -> nn.ModuleList:
    """The blocks.

    Raises:
        PlanError: see `trunk_states`.
    """
    anatomy = anatomy_of(model)
    blocks: Any = model.get_submodule(anatomy.layers[0].block.rpartition(".")[0])
    if anatomy.kind != "decoder" or not isinstance(blocks, nn.ModuleList) or not 0 <= cut <= len(blocks):
        raise PlanError(
            f"this {anatomy.family} model cannot be cut before layer {cut}.",
            code="E-TRUNK-CUT",
            fix=f"Decoders can, from 0 to {len(anatomy.layers)}.",
        )
    if depends_on_length(model.config):
        raise PlanError(
            "the rotary frequencies of this model depend on the longest row of a batch.",
            code="E-MODEL-ROPE",
            fix="Compute the whole model in every epoch.",
        )
    return blocks


def _computed(model: PreTrainedModel, layers: nn.ModuleList, rows: Sequence[Encoded], cut: int) -> Iterator[Tensor]:
    """States of rows in their order, batch by batch."""
    use_attention(model)
    with torch.no_grad(), evaluating(model), off(model), beside_training():
        for places in filled(enumerate(len(row.tokens) for row in rows), BATCH_TOKENS):
            yield _entry_states(model, layers, pack([rows[place] for place in places]), cut)


def _entry_states(model: PreTrainedModel, layers: nn.ModuleList, batch: PackedBatch, cut: int) -> Tensor:
    """By the fused body where it runs, as training goes on from here; else the model's own modules, up to the cut."""
    batch = batch.to(model.get_input_embeddings().weight.device)
    with segments(batch.offsets) as packed:
        if obstacle(model, len(batch.tokens)) is None:
            embedded = model.get_input_embeddings()(batch.tokens)
            return fused_hidden(model, packed, batch.positions, embedded, end=cut).hidden.cpu()
    reached: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    with _hooked(_module_at(model, layers, cut), stop), segments(batch.offsets), suppress(_Reached):
        model.base_model(input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False)
    return reached[0][0].cpu()


def _module_at(model: PreTrainedModel, layers: nn.ModuleList, cut: int) -> nn.Module:
    """What reads the states at the cut: a layer, or the final norm."""
    return layers[cut] if cut < len(layers) else model.get_submodule(anatomy_of(model).final_norm)


@contextmanager
def _entering(reader: nn.Module, states: Tensor) -> Iterator[None]:
    """Inside, the module at the cut reads these states."""

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    with _hooked(reader, replace):
        yield


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _without(layers: nn.ModuleList, cut: int) -> Iterator[None]:
    """Inside, the layers below the cut do nothing."""
    lower = list(layers)[:cut]
    for place, layer in enumerate(lower):
        layers[place] = Passed(layer)
    try:
        yield
    finally:
        for place, layer in enumerate(lower):
            layers[place] = layer


def _weights_digest(model: PreTrainedModel, lower: Sequence[nn.Module]) -> str:
    """Of every weight that the trunk reads, in full."""
    tensors = {f"embedding.{name}": tensor for name, tensor in model.get_input_embeddings().state_dict().items()}
    for place, layer in enumerate(lower):
        tensors |= {f"{place}.{name}": tensor for name, tensor in layer.state_dict().items()}
    return digest_of([tensors_digest(tensors), model.config.to_json_string()])


def _rows_digest(rows: Sequence[Encoded]) -> str:
    return digest_of([list(row.tokens) for row in rows])
