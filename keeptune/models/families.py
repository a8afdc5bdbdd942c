"""The model families whose forward pass keeptune knows part by part, and what it refuses by name.

A family is a table: which module of a block is its attention, which linear map plays which role, which norm
stands where. Everything else (adapters, packing, probing) speaks in these roles, never in module names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeptune.core.errors import PlanError
from keeptune.core.shape import Linear, ModelShape
from keeptune.core.shape import family_of as arithmetic_of
from keeptune.models.encoder_families import ENCODERS
from keeptune.models.family import Family, Stack
from keeptune.models.seq2seq_families import SEQ2SEQ

LLAMA_ATTENTION = {role: f"self_attn.{role}_proj" for role in "qkvo"}
LLAMA_FEED_FORWARD = {role: f"mlp.{role}_proj" for role in ("gate", "up", "down")}
LLAMA_NORMS = {"attention_in": "input_layernorm", "feed_forward_in": "post_attention_layernorm"}
SANDWICH_NORMS = {
    "attention_in": "input_layernorm",
    "attention_out": "post_attention_layernorm",
    "feed_forward_in": "pre_feedforward_layernorm",
    "feed_forward_out": "post_feedforward_layernorm",
}
HEAD_NORMS = {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}


def _llama_like(norms: Mapping[str, str], linear: Mapping[str, str] | None = None) -> Family:
    return _decoder(
        "model",
        embedding="embed_tokens",
        final_norm="norm",
        stack=Stack(
            blocks="model.layers",
            attention="self_attn",
            feed_forward="mlp",
            linear=linear or {**LLAMA_ATTENTION, **LLAMA_FEED_FORWARD},
            norms=norms,
        ),
    )


def _decoder(body: str, *, embedding: str, final_norm: str, stack: Stack) -> Family:
    return Family(embedding=f"{body}.{embedding}", final_norm=f"{body}.{final_norm}", stacks=(stack,), body=body)


DECODERS: Mapping[str, Family] = {
    "llama": _llama_like(LLAMA_NORMS),
    "mistral": _llama_like(LLAMA_NORMS),
    "qwen2": _llama_like(LLAMA_NORMS),
    "qwen3": _llama_like({**LLAMA_NORMS, **HEAD_NORMS}),
    "gemma": _llama_like(LLAMA_NORMS),
    "gemma2": _llama_like(SANDWICH_NORMS),
    "gemma3_text": _llama_like({**SANDWICH_NORMS, **HEAD_NORMS}),
    "phi3": _llama_like(
        LLAMA_NORMS,
        linear={
            "qkv": "self_attn.qkv_proj",
            "o": "self_attn.o_proj",
            "gate_up": "mlp.gate_up_proj",
            "down": "mlp.down_proj",
        },
    ),
    "gpt2": _decoder(
        "transformer",
        embedding="wte",
        final_norm="ln_f",
        stack=Stack(
            blocks="transformer.h",
            attention="attn",
            feed_forward="mlp",
            linear={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
            norms={"attention_in": "ln_1", "feed_forward_in": "ln_2"},
        ),
    ),
    "gpt_neox": _decoder(
        "gpt_neox",
        embedding="embed_in",
        final_norm="final_layer_norm",
        stack=Stack(
            blocks="gpt_neox.layers",
            attention="attention",
            feed_forward="mlp",
            linear={
                "qkv": "attention.query_key_value",
                "o": "attention.dense",
                "up": "mlp.dense_h_to_4h",
                "down": "mlp.dense_4h_to_h",
            },
            norms={"attention_in": "input_layernorm", "feed_forward_in": "post_attention_layernorm"},
        ),
    ),
}

FAMILIES: Mapping[str, Family] = {**DECODERS, **ENCODERS, **SEQ2SEQ, "mt5": SEQ2SEQ["t5_gated"]}
"""By `model_type`; a T5 with gates has a table of its own, `t5_gated`."""

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def family_of(config: Mapping[str, Any]) -> Family:
    """The table of the family that `config` (the content of a `config.json`) belongs to.

    Raises:
        PlanError: a family without a table (E-MODEL-FAMILY), a mixture of experts (E-MODEL-MOE), or a variant whose
            attention is not the family's own (E-MODEL-ATTENTION).
    """
    name = str(config.get("model_type"))
    experts = next((key for key in EXPERT_COUNTS if isinstance(config.get(key), int) and config[key] > 0), None)
    if experts or "moe" in name.lower():
        raise PlanError(
            f"'{name}' is a mixture of experts" + (f" ({experts}: {config[experts]})." if experts else "."),
            code="E-MODEL-MOE",
            why="Its routing is not verified against the reference forward, so nothing is promised about it.",
            fix=f"Use a dense model of: {', '.join(FAMILIES)}.",
        )
    if name not in FAMILIES:
        raise PlanError(
            f"models of the type '{name}' are not supported.",
            code="E-MODEL-FAMILY",
            why="Each family is verified part by part before it is let in.",
            fix=f"These work: {', '.join(FAMILIES)}.",
        )
    family = FAMILIES[arithmetic_of(config)] if name in ("t5", "mt5") else FAMILIES[name]
    _check_attention(name, config, family)
    return family


def family_of_shape(shape: ModelShape) -> Family:
    """The table of the family that a shape belongs to."""
    return FAMILIES.get(shape.family) or FAMILIES[f"{shape.family}_text"]


def linear_places(shape: ModelShape) -> Iterator[tuple[int, str, Linear]]:
    """Layer, module path and widths of every linear map inside the blocks, in model order, from the shape alone."""
    family = family_of_shape(shape)
    first = 0
    for number, stack in enumerate(family.stacks):
        last = shape.encoder_layers if number + 1 < len(family.stacks) else shape.layers
        for layer in range(first, last):
            for linear in shape.maps_of(layer):
                yield layer, f"{stack.blocks}.{layer - first}.{stack.linear[linear.role]}", linear
        first = last


def norm_roles(shape: ModelShape) -> Iterator[tuple[int, str]]:
    """Layer and role of every norm over the width inside the blocks, in model order, from the shape alone."""
    family = family_of_shape(shape)
    for layer in range(shape.layers):
        stack = family.stacks[-1 if layer >= shape.encoder_layers else 0]
        roles = [role for role in stack.norms if role not in HEAD_NORMS]
        for role in roles[len(roles) - shape.norms_of(layer) :]:
            yield layer, role


def _check_attention(name: str, config: Mapping[str, Any], family: Family) -> None:
    """Refuses variants that attend in another way than the family's own."""
    unusual = ["use_bidirectional_attention", "add_cross_attention"]
    unusual += [] if family.kind == "encoder_decoder" else ["is_encoder_decoder"]
    unusual += ["is_decoder"] if family.kind == "encoder" else []
    what = {"decoder": "a causal decoder", "encoder": "an encoder"}.get(family.kind, "a plain one")
    for key in unusual:
        if config.get(key):
            raise PlanError(
                f"this '{name}' sets {key}, so it is not {what}.",
                code="E-MODEL-ATTENTION",
                fix="Use a model of the usual kind of its family.",
            )
    if name == "deberta-v2" and config.get("pos_att_type") and not config.get("share_att_key"):
        raise PlanError(
            "this 'deberta-v2' projects positions with maps of their own (share_att_key: false).",
            code="E-MODEL-ATTENTION",
            fix="Use DeBERTa v2 or v3 as published, which share the keys' map.",
        )
