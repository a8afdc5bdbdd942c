"""The model families whose forward pass keeptune knows part by part, and what it refuses by name.

A family is a table: which module of a block is its attention, which linear map plays which role, which norm
stands where. Everything else (adapters, packing, probing) speaks in these roles, never in module names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeptune.core.errors import PlanError


@dataclass(frozen=True)
class Family:
    """Where the named places of one family are.

    Attributes:
        embedding: path of the token embedding.
        blocks: path of the list of blocks.
        final_norm: path of the norm behind the last block.
        attention: the attention module, relative to a block.
        feed_forward: the feed-forward module, relative to a block.
        linear: role to path relative to a block. Roles are `q k v o gate up down`; a fused map has the joined role
            `qkv` or `gate_up`.
        norms: role to path relative to a block. `attention_in` and `feed_forward_in` stand before the two sublayers,
            `attention_out` and `feed_forward_out` behind them, `q` and `k` inside attention.
    """

    embedding: str
    blocks: str
    final_norm: str
    attention: str
    feed_forward: str
    linear: Mapping[str, str]
    norms: Mapping[str, str]


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
    return Family(
        embedding="model.embed_tokens",
        blocks="model.layers",
        final_norm="model.norm",
        attention="self_attn",
        feed_forward="mlp",
        linear=linear or {**LLAMA_ATTENTION, **LLAMA_FEED_FORWARD},
        norms=norms,
    )


FAMILIES: Mapping[str, Family] = {
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
    "gpt2": Family(
        embedding="transformer.wte",
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        feed_forward="mlp",
        linear={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        norms={"attention_in": "ln_1", "feed_forward_in": "ln_2"},
    ),
    "gpt_neox": Family(
        embedding="gpt_neox.embed_in",
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
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
}

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def family_of(config: Mapping[str, Any]) -> Family:
    """The table of the family that `config` (the content of a `config.json`) belongs to.

    Raises:
        PlanError: a family without a table (E-MODEL-FAMILY), a mixture of experts (E-MODEL-MOE), or a variant that
            is not a causal decoder (E-MODEL-ATTENTION).
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
    for key in ("use_bidirectional_attention", "add_cross_attention", "is_encoder_decoder"):
        if config.get(key):
            raise PlanError(
                f"this '{name}' sets {key}, so it is not a causal decoder.",
                code="E-MODEL-ATTENTION",
                fix="Use a decoder-only language model.",
            )
    return FAMILIES[name]
