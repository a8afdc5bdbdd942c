"""A model put together from blocks of others: of the same shape in everything but its depth."""

from __future__ import annotations

from collections.abc import Container, Sequence
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
        last: whose final norm and head; None: new ones. A head that is the embedding stays that; a head for masked
            words and a pooler come with the embeddings.
        seed: of new weights.

    Raises:
        PlanError: it has two stacks of blocks, or a part has another shape (E-STACK-SHAPE).
    """
    config, depth = deepcopy(like.config), int(like.config.num_hidden_layers)
    config.num_hidden_layers = len(blocks)
    if getattr(config, "layer_types", None):
        config.layer_types = [_kind(block or Block(like, place % depth)) for place, block in enumerate(blocks)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = type(like)(config).to(like.dtype)
    anatomy = anatomy_of(made)
    if anatomy.kind == "encoder_decoder":
        raise PlanError(
            f"a {anatomy.family} model has two stacks of blocks, and is not put together from them.",
            code="E-STACK-SHAPE",
            fix="Decoders and encoders are, such as Llama, GPT-2, BERT and ViT.",
        )
    paths = [layer.block for layer in anatomy.layers]
    own_head = anatomy.kind == "decoder" and not tied(made)
    weights = made.state_dict()
    for path, block in zip(paths, blocks, strict=True):
        if block is not None:
            _check_whole(block, made.get_submodule(path).state_dict())
    for name in weights:
        place = next((n for n, path in enumerate(paths) if name.startswith(f"{path}.")), None)
        if place is not None:
            block = blocks[place]
            if block is not None:
                path = anatomy_of(block.model).layers[block.index].block
                weights[name] = _of(block.model, path + name[len(paths[place]) :], weights[name])
            continue
        ends = [anatomy.final_norm, anatomy.head if own_head else ""]
        source = last if any(path and name.startswith(f"{path}.") for path in ends) else first
        if source is not None:
            weights[name] = _of(source, name, weights[name])
    made.load_state_dict(weights)
    if hasattr(like, "generation_config"):
        made.generation_config = like.generation_config
    return made


def tied(model: PreTrainedModel) -> bool:
    """Whether its head is the embedding's own matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _kind(block: Block) -> str:
    """How a block attends: over a window, or over all."""
    return str(block.model.config.layer_types[block.index])


def _check_whole(block: Block, room: Container[str]) -> None:
    """Nothing of a block may be left behind: ModernBERT's first one has no norm before its attention, all others do."""
    own = block.model.get_submodule(anatomy_of(block.model).layers[block.index].block).state_dict()
    left = [name for name in own if name not in room]
    if left:
        raise PlanError(
            f"block {block.index} has '{left[0]}', for which there is no room where it is to stand.",
            code="E-STACK-SHAPE",
            fix="Take the parts from models of one width, one tokenizer and one kind of norm.",
        )


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
