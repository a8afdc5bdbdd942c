"""Tiny random models of every family, small enough that a forward pass costs a millisecond."""

from __future__ import annotations

import torch
from transformers import AutoConfig, PreTrainedModel

from keeptune.models.auto_class import auto_class

VOCABULARY = 61

LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8}


def _rope(**settings: object) -> dict[str, object]:
    return {**LLAMA, "rope_parameters": {"rope_theta": 10000.0, **settings}}


CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", LLAMA),
    "llama, biases, one key head, tied": (
        "llama",
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "llama, linear rope": ("llama", _rope(rope_type="linear", factor=2.0)),
    "llama, llama3 rope": (
        "llama",
        _rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    ),
    "llama, yarn rope": ("llama", _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama, dynamic rope": ("llama", _rope(rope_type="dynamic", factor=2.0)),
    "mistral, window": ("mistral", {**LLAMA, "sliding_window": 5}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, window above": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 8}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 8}),
    "gemma2": (
        "gemma2",
        {**GEMMA, "sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": (
        "gemma3_text",
        {**GEMMA, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": ("phi3", LLAMA),
    "phi3, longrope, window": (
        "phi3",
        {
            **LLAMA,
            "sliding_window": 9,
            "original_max_position_embeddings": 12,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 12,
            },
        },
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1},
    ),
    "gpt_neox": (
        "gpt_neox",
        {**LLAMA, "rotary_pct": 0.25, "use_parallel_residual": True},
    ),
    "gpt_neox, serial": ("gpt_neox", {**LLAMA, "rotary_pct": 0.5, "use_parallel_residual": False}),
}

SMALL = {key: LLAMA[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
ENCODER = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "max_position_embeddings": 64,
    **{
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    },
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

ENCODERS: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("bert", ENCODER),
    "bert, bare": ("bert", {**ENCODER, "architectures": ["BertModel"]}),
    "roberta": ("roberta", {**ENCODER, "pad_token_id": 1}),
    "deberta-v2": ("deberta-v2", {**ENCODER, **DEBERTA}),
    "modernbert": (
        "modernbert",
        {
            **ENCODER,
            "local_attention": 6,
            "global_attn_every_n_layers": 2,
            "bos_token_id": 1,
            "cls_token_id": 1,
            "eos_token_id": 2,
            "sep_token_id": 2,
        },
    ),
}
SEQ2SEQ: dict[str, tuple[str, dict[str, object]]] = {
    "t5": ("t5", T5),
    "t5, gated, untied": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**T5, "num_decoder_layers": 3, "tie_word_embeddings": False}),
    "bart": ("bart", BART),
}
IMAGES: dict[str, tuple[str, dict[str, object]]] = {
    "vit": ("vit", {**SMALL, "image_size": 8, "patch_size": 4, "num_channels": 1}),
}
OTHERS = {**ENCODERS, **SEQ2SEQ, **IMAGES}


def tiny_model(name: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random fp32 model in evaluation mode that runs transformers' eager attention.

    Weights are large enough (standard deviation 0.3) that a token attended by mistake moves the logits.
    """
    kind, settings = {**CONFIGS, **OTHERS}[name]
    config = AutoConfig.for_model(kind, **{**settings, **changes})
    torch.manual_seed(seed)
    built = auto_class(config.to_dict())
    model = built.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def inputs_of(name: str, batch: int = 2, width: int = 7, seed: int = 5) -> dict[str, torch.Tensor]:
    """What a forward pass of that family takes: token ids, those of both sides, or an image."""
    generator = torch.Generator().manual_seed(seed)
    if name in IMAGES:
        return {"pixel_values": torch.randn(batch, 1, 8, 8, generator=generator)}
    tokens = torch.randint(3, VOCABULARY, (batch, width), generator=generator)
    if name in SEQ2SEQ:
        answers = torch.randint(3, VOCABULARY, (batch, width - 2), generator=generator)
        return {"input_ids": tokens, "decoder_input_ids": answers}
    return {"input_ids": tokens}
