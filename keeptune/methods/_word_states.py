"""The keys and values that the frozen model computes for words: what prefixes can start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.generation import evaluating
from keeptune.engine.rows import off
from keeptune.models.anatomy import Anatomy, Layer, anatomy_of


def word_states(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, Tensor]:
    """By the path of each module that computes attention: keys and values `[p, 2, G, K]` of the words.

    An encoder-decoder reads the words on both sides. `require_words` says where this is possible.
    """
    anatomy = anatomy_of(model)
    tokens = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    with torch.no_grad(), evaluating(model), off(model):
        if anatomy.kind == "decoder":
            cache = DynamicCache()  # without a config: every layer keeps all, whatever its window
            model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
            states = [torch.stack([layer.keys[0], layer.values[0]]).permute(2, 0, 1, 3) for layer in cache.layers]
            return {layer.attends: state.float() for layer, state in zip(anatomy.layers, states, strict=True)}
        return _from_maps(model, anatomy, tokens)


def require_words(anatomy: Anatomy) -> None:
    """Refuses a family whose keys of words cannot be read off.

    Raises:
        PlanError: E-METHOD-FAMILY.
    """
    if anatomy.kind == "decoder":
        return
    if anatomy.kind == "image" or any(f"{prefix}k" not in layer.linear for layer, prefix, _ in _attentions(anatomy)):
        raise PlanError(
            f"the keys of words cannot be read off a {anatomy.family} model.",
            code="E-METHOD-FAMILY",
            where={"key": "init"},
            fix="Use `init: random`.",
        )


def _attentions(anatomy: Anatomy) -> Iterator[tuple[Layer, str, str]]:
    """Each attention: its layer, what the roles of its maps begin with, and its path."""
    for layer in anatomy.layers:
        yield layer, "", layer.attends
        if layer.cross_attends is not None:
            yield layer, "cross_", layer.cross_attends


def _from_maps(model: PreTrainedModel, anatomy: Anatomy, tokens: Tensor) -> dict[str, Tensor]:
    """As the maps of keys and values return them: these families turn nothing afterwards."""
    shape = ModelShape.from_config(model.config.to_dict())
    wanted = {
        path: (layer.linear[f"{prefix}k"], layer.linear[f"{prefix}v"]) for layer, prefix, path in _attentions(anatomy)
    }
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def look(module: Any, args: Any, output: Tensor) -> None:  # what a hook returns would take the output's place
            found[path] = output[0].float()

        return look

    handles = [model.get_submodule(p).register_forward_hook(keep(p)) for pair in wanted.values() for p in pair]
    try:
        both = {"decoder_input_ids": tokens, "use_cache": False} if anatomy.kind == "encoder_decoder" else {}
        model(input_ids=tokens, **both)
    finally:
        for handle in handles:
            handle.remove()
    size = (tokens.shape[1], shape.kv_heads, shape.head_width)
    return {path: torch.stack([found[p].view(size) for p in pair], dim=1) for path, pair in wanted.items()}
