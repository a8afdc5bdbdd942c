"""Anatomy: the named places of a model, found by role instead of by module name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.models.families import HEAD_NORMS, family_of


@dataclass(frozen=True)
class Layer:
    """One block. Every path is a full module path of the model.

    Attributes:
        index: 0 is next to the embedding.
        block: the whole block.
        attention: its attention sublayer, after whose output the residual is added.
        feed_forward: its feed-forward sublayer.
        linear: role (`q k v o gate up down`, fused `qkv gate_up`) to path.
        norms: role to path, as in `Family.norms`.
    """

    index: int
    block: str
    attention: str
    feed_forward: str
    linear: Mapping[str, str]
    norms: Mapping[str, str]


def norms_over_width(layer: Layer) -> dict[str, str]:
    """Role to path of a block's norms over its width; those of heads, inside attention, are no layer norms."""
    return {role: path for role, path in layer.norms.items() if role not in HEAD_NORMS}


@dataclass(frozen=True)
class Anatomy:
    """The places of one model.

    Attributes:
        family: the `model_type`.
        layers: from the embedding to the head.
        embedding: path of the token embedding.
        final_norm: path of the norm before the head.
        head: path of the output projection; it may share its weight with the embedding.
    """

    family: str
    layers: Sequence[Layer]
    embedding: str
    final_norm: str
    head: str | None

    @property
    def roles(self) -> list[str]:
        """The roles of the linear maps that this family has."""
        return list(self.layers[0].linear)

    def linear_paths(self, targets: Sequence[str] | Literal["all"] = "all") -> list[str]:
        """The paths of the linear maps that `targets` name, in model order; the head is never among them.

        Args:
            targets: `all`, or a list whose items are roles (`q`), module names (`q_proj`, `mlp.c_proj`) or full paths.

        Raises:
            PlanError: an item that matches nothing (E-MODEL-TARGET).
        """
        everything = [(role, path) for layer in self.layers for role, path in layer.linear.items()]
        if targets == "all":
            return [path for _, path in everything]
        for target in targets:
            if not any(_matches(target, role, path) for role, path in everything):
                names = {path.rpartition(".")[2] for path in self.layers[0].linear.values()}
                raise PlanError(
                    f"the target '{target}' matches no linear map of this {self.family} model.",
                    code="E-MODEL-TARGET",
                    fix=did_you_mean(target, {"all", *self.roles, *names}),
                )
        return [path for role, path in everything if any(_matches(target, role, path) for target in targets)]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """The places of `model`; each path is checked to exist.

    Raises:
        PlanError: as `family_of`.
    """
    family = family_of(model.config.to_dict())
    blocks = model.get_submodule(family.blocks)
    assert hasattr(blocks, "__len__"), f"{family.blocks} is not a list of blocks"
    layers = []
    for index in range(len(blocks)):
        block = f"{family.blocks}.{index}"
        layers.append(
            Layer(
                index=index,
                block=block,
                attention=f"{block}.{family.attention}",
                feed_forward=f"{block}.{family.feed_forward}",
                linear={role: f"{block}.{path}" for role, path in family.linear.items()},
                norms={role: f"{block}.{path}" for role, path in family.norms.items()},
            )
        )
    head = model.get_output_embeddings()
    head_path = next((name for name, module in model.named_modules() if module is head), None) if head else None
    anatomy = Anatomy(model.config.model_type, layers, family.embedding, family.final_norm, head_path)
    for path in (anatomy.embedding, anatomy.final_norm, *_paths(layers[0])):
        model.get_submodule(path)
    return anatomy


def _matches(target: str, role: str, path: str) -> bool:
    return target in (role, path) or path.endswith(f".{target}")


def _paths(layer: Layer) -> list[str]:
    return [layer.attention, layer.feed_forward, *layer.linear.values(), *layer.norms.values()]
