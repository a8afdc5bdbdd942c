"""Anatomy: the named places of a model, found by role instead of by module name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.models.families import HEAD_NORMS, family_of
from keeptune.models.family import Kind, PositionRule, Stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Layer:
    """One block. Every path is a full module path of the model.

    Attributes:
        index: 0 is next to the embedding; in an encoder-decoder, the decoder's go on counting behind the encoder's.
        block: the whole block.
        attention: the module whose output is the attention sublayer's; the residual is added behind it.
        feed_forward: the same for the feed-forward sublayer.
        linear: role (`q k v o gate up down`, fused `qkv gate_up`, `cross_q` ...) to path.
        norms: role to path, as in `Stack.norms`.
        attends: the module that computes attention.
        reads: sublayer (`attention cross feed_forward`) to the module whose input is what the sublayer reads.
        streams: the same, to the module whose input is the residual stream: the norm before the sublayer, if any.
        cross: the cross-attention sublayer, or None.
        cross_attends: the module that computes cross attention, or None.
    """

    index: int
    block: str
    attention: str
    feed_forward: str
    linear: Mapping[str, str]
    norms: Mapping[str, str]
    attends: str
    reads: Mapping[str, str]
    streams: Mapping[str, str]
    cross: str | None = None
    cross_attends: str | None = None

    @property
    def sublayers(self) -> dict[str, str]:
        """Sublayer to path, in the order of the forward pass."""
        found = {"attention": self.attention, "cross": self.cross, "feed_forward": self.feed_forward}
        return {name: path for name, path in found.items() if path is not None}


def norms_over_width(layer: Layer) -> dict[str, str]:
    """Role to path of a block's norms over its width; those of heads, inside attention, are no layer norms."""
    return {role: path for role, path in layer.norms.items() if role not in HEAD_NORMS}


@dataclass(frozen=True)
class Anatomy:
    """The places of one model.

    Attributes:
        family: the `model_type`.
        layers: from the embedding to the head; of an encoder-decoder the encoder's, then the decoder's.
        embedding: path of the token embedding (in an image encoder, of the patches).
        final_norm: path of the norm behind the last block; empty where the block ends in its own.
        head: path of the output projection; it may share its weight with the embedding. None without one.
        kind: `decoder`, `encoder`, `encoder_decoder` or `image`.
        body: path of the body, that is of everything but the head; empty where the model is the body.
        registry: whether attention goes through transformers' registry, as prefixes and packed rows need.
        positions: the rule of the body's positions; None where it takes none.
    """

    family: str
    layers: Sequence[Layer]
    embedding: str
    final_norm: str
    head: str | None
    kind: Kind = "decoder"
    body: str = ""
    registry: bool = True
    positions: PositionRule | None = "counted"

    @property
    def roles(self) -> list[str]:
        """The roles of the linear maps that this family has."""
        return list(self.layers[-1].linear)

    def linear_paths(self, targets: Sequence[str] | Literal["all"] = "all") -> list[str]:
        """The paths of the linear maps that `targets` name, in model order; the head is never among them.

        Args:
            targets: `all`, or a list whose items are roles (`q`; `cross_q` for cross attention alone), module names
                (`q_proj`, `mlp.c_proj`) or full paths.

        Raises:
            PlanError: an item that matches nothing (E-MODEL-TARGET).
        """
        everything = [(role, path) for layer in self.layers for role, path in layer.linear.items()]
        if targets == "all":
            return [path for _, path in everything]
        for target in targets:
            if not any(_matches(target, role, path) for role, path in everything):
                names = {path.rpartition(".")[2] for path in self.layers[-1].linear.values()}
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
    body = family.body if family.body and hasattr(model, family.body) else ""
    bare = f"{family.body}." if family.body and not body else ""
    layers: list[Layer] = []
    for stack in family.stacks:
        path = stack.blocks.removeprefix(bare)
        blocks = model.get_submodule(path)
        assert hasattr(blocks, "__len__"), f"{path} is not a list of blocks"
        layers += [_layer(model, stack, f"{path}.{number}", len(layers) + number) for number in range(len(blocks))]
    head = model.get_output_embeddings()
    head_path = next((name for name, module in model.named_modules() if module is head), None) if head else None
    anatomy = Anatomy(
        family=model.config.model_type,
        layers=layers,
        embedding=family.embedding.removeprefix(bare),
        final_norm=family.final_norm.removeprefix(bare),
        head=head_path,
        kind=family.kind,
        body=body,
        registry=family.registry,
        positions=family.positions,
    )
    for path in (anatomy.embedding, anatomy.final_norm, *_paths(layers[0]), *_paths(layers[-1])):
        model.get_submodule(path)
    return anatomy


def _layer(model: PreTrainedModel, stack: Stack, block: str, index: int) -> Layer:
    """One block's places; the first block of some families has an identity in the place of a norm."""
    from torch import nn

    def at(path: str) -> str:
        return f"{block}.{path}"

    sublayers = {"attention": stack.attention, "cross": stack.cross, "feed_forward": stack.feed_forward}
    sublayers = {name: path for name, path in sublayers.items() if path}
    reads = {name: stack.reads.get(name, path) for name, path in sublayers.items()}
    norms = {role: at(path) for role, path in stack.norms.items()}
    return Layer(
        index=index,
        block=block,
        attention=at(stack.attention),
        feed_forward=at(stack.feed_forward),
        linear={role: at(path) for role, path in stack.linear.items()},
        norms={role: path for role, path in norms.items() if not isinstance(model.get_submodule(path), nn.Identity)},
        attends=at(stack.attends or stack.attention),
        reads={name: at(path) for name, path in reads.items()},
        streams={name: norms.get(f"{name}_in", at(path)) for name, path in reads.items()},
        cross=at(stack.cross) if stack.cross else None,
        cross_attends=at(stack.cross_attends or stack.cross) if stack.cross else None,
    )


def _matches(target: str, role: str, path: str) -> bool:
    return target in (role, role.removeprefix("cross_"), path) or path.endswith(f".{target}")


def _paths(layer: Layer) -> list[str]:
    own = [*layer.sublayers.values(), layer.attends, *layer.reads.values(), *layer.streams.values()]
    return [*own, *layer.linear.values(), *layer.norms.values()]
