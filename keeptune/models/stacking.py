"""A decoder put together from blocks of others: of the same shape in everything but its depth."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.models.anatomy import anatomy_of


@dataclass(frozen=True)
class Block:
    """A block of a model: whose weights a block of the new one takes."""

    model: PreTrainedModel
    index: int


def stacked(
    like: PreTrainedModel,
    blocks: Sequence[Block | None],
    *,
    first: PreTrainedModel | None,
    last: PreTrainedModel | None,
    seed: int,
) -> PreTrainedModel:
    """A model of as many blocks as are given, on the CPU, in the dtype of `like`.

    Args:
        like: its configuration is the new one's, but for the number of blocks.
        blocks: where each block's weights come from; None: as the architecture begins, by `seed`.
        first: whose embeddings it takes; None: new ones.
        last: whose final norm and head; None: new ones. A head that is the embedding stays that.
        seed: of new weights.

    Raises:
        PlanError: it is no decoder, or a part has another shape (E-STACK-SHAPE).
    """
    config = deepcopy(like.config)
    config.num_hidden_layers = len(blocks)
    if getattr(config, "layer_types", None):
        config.layer_types = [like.config.layer_types[_kind(block, place, like)] for place, block in enumerate(blocks)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = type(like)(config).to(like.dtype)
    anatomy = anatomy_of(made)
    if anatomy.kind != "decoder":
        raise PlanError(
            f"a {anatomy.family} model is not put together from blocks.",
            code="E-STACK-SHAPE",
            fix="Decoders are, such as Llama, Qwen and GPT-2.",
        )
    paths = [layer.block for layer in anatomy.layers]
    tied = made.get_input_embeddings().weight is made.get_output_embeddings().weight
    weights = made.state_dict()
    for name in weights:
        place = next((n for n, path in enumerate(paths) if name.startswith(f"{path}.")), None)
        if place is not None:
            block = blocks[place]
            if block is not None:
                path = anatomy_of(block.model).layers[block.index].block
                weights[name] = _of(block.model, path + name[len(paths[place]) :], weights[name])
            continue
        ends = not tied and any(name.startswith(f"{path}.") for path in (anatomy.head,) if path)
        source = last if ends or name.startswith(f"{anatomy.final_norm}.") else first
        if source is not None:
            weights[name] = _of(source, name, weights[name])
    made.load_state_dict(weights)
    made.generation_config = like.generation_config
    return made


def _kind(block: Block | None, place: int, like: PreTrainedModel) -> int:
    """The layer of `like` whose attention the block has."""
    return (place if block is None else block.index) % int(like.config.num_hidden_layers)


def _of(model: PreTrainedModel, name: str, shaped: Tensor) -> Tensor:
    found = model.state_dict().get(name)
    if found is None or found.shape != shaped.shape:
        raise PlanError(
            f"'{name}' is {'missing' if found is None else f'of shape {tuple(found.shape)}'} in a part of the model.",
            code="E-STACK-SHAPE",
            fix="Take the parts from models of one width, one tokenizer and one kind of norm.",
        )
    taken: Tensor = found.to("cpu", shaped.dtype)
    return taken
