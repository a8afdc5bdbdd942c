"""The numbers of models that are no plain decoder: encoders, encoder-decoders, and ViT.

Each reader turns the plain data of a `config.json` into the fields of a `ModelShape`. What stands outside the blocks
differs from family to family, so it is counted here (`outside`): embeddings, positions, token types, norms, heads.
Symbols as in `shape.py`; P rows of learned positions, S token types, B buckets of relative positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keeptune.core.config_count import count
from keeptune.core.errors import PlanError

Fields = dict[str, Any]

ATTENTION = ("q", "k", "v", "o")


def _common(config: Mapping[str, Any]) -> Fields:
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    return {
        "width": width,
        "layers": count(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_width": width // heads,
        "feed_forward": count(config, "intermediate_size"),
        "norm_biased": True,
        "biased": frozenset((*ATTENTION, "up", "down")),
    }


def bare(config: Mapping[str, Any]) -> bool:
    """Whether the files hold the encoder without its masked-language-model head."""
    names = config.get("architectures") or [""]
    return str(names[0]).endswith("Model")


def _mask_head(config: Mapping[str, Any], width: int, vocabulary: int) -> int:
    """D^2 + D and a norm before the output map, whose matrix is the embedding's own, and V biases."""
    own = 0 if config.get("tie_word_embeddings", True) else vocabulary * width
    return width * width + width + 2 * width + vocabulary + own


def _bert(config: Mapping[str, Any]) -> Fields:
    """BERT and RoBERTa: (V + P + S) D and a norm; the head, or with the bare encoder a pooler of D^2 + D."""
    fields = _common(config)
    d, vocabulary, context = fields["width"], count(config, "vocab_size"), count(config, "max_position_embeddings", 512)
    types = count(config, "type_vocab_size", 2)
    before = (vocabulary + context + types) * d + 2 * d
    outside = before + (d * d + d if bare(config) else _mask_head(config, d, vocabulary))
    counts = {"vocabulary": vocabulary, "context": context, "positions": context}
    return {**fields, **counts, "outside": outside, "before": before}


def _deberta(config: Mapping[str, Any]) -> Fields:
    """DeBERTa v2 and v3: relative positions of width D, two per distance; in v2-xlarge a convolution beside block 0."""
    fields = _common(config)
    d, vocabulary, context = fields["width"], count(config, "vocab_size"), count(config, "max_position_embeddings", 512)
    if config.get("embedding_size") not in (None, d):
        raise PlanError("this DeBERTa embeds tokens in another width than its blocks have.", code="E-MODEL-SHAPE")
    before = (vocabulary + int(config.get("type_vocab_size") or 0)) * d + 2 * d
    if config.get("position_biased_input", True):
        before += context * d
    outside = before
    if config.get("relative_attention"):
        reach = int(config.get("max_relative_positions", -1))
        buckets = int(config.get("position_buckets", -1))
        span = buckets if buckets > 0 else reach if reach > 0 else context
        outside += 2 * span * d
    if "layer_norm" in str(config.get("norm_rel_ebd", "none")):
        outside += 2 * d
    kernel = int(config.get("conv_kernel_size") or 0)
    outside += (kernel * d * d + 3 * d) if kernel else 0
    outside += 0 if bare(config) else _mask_head(config, d, vocabulary)
    return {**fields, "vocabulary": vocabulary, "context": context, "outside": outside, "before": before}


def _modernbert(config: Mapping[str, Any]) -> Fields:
    """ModernBERT: fused maps, rotary positions, no norm before the first attention."""
    fields = _common(config)
    d, vocabulary = fields["width"], count(config, "vocab_size")
    biased_norm = bool(config.get("norm_bias", False))
    norm = 2 * d if biased_norm else d
    attention = ("qkv", "o") if config.get("attention_bias") else ()
    feed_forward = ("gate_up", "down") if config.get("mlp_bias") else ()
    outside = vocabulary * d + 2 * norm
    if not bare(config):
        outside += d * d + (d if config.get("classifier_bias") else 0) + norm
        outside += vocabulary if config.get("decoder_bias", True) else 0
        outside += 0 if config.get("tie_word_embeddings", True) else vocabulary * d
    return {
        **fields,
        "vocabulary": vocabulary,
        "context": count(config, "max_position_embeddings", 8192),
        "norm_biased": biased_norm,
        "first_norms": 1,
        "biased": frozenset((*attention, *feed_forward)),
        "outside": outside,
        "before": vocabulary * d + norm,
    }


def _t5(config: Mapping[str, Any]) -> Fields:
    """T5 and mT5: one embedding for both sides, a norm behind each, a head if untied; B H biases in block 0."""
    d, heads, vocabulary = count(config, "d_model"), count(config, "num_heads"), count(config, "vocab_size")
    encoder = count(config, "num_layers")
    buckets = count(config, "relative_attention_num_buckets", 32)
    head = 0 if config.get("tie_word_embeddings", True) else vocabulary * d
    return {
        "vocabulary": vocabulary,
        "width": d,
        "layers": encoder + count(config, "num_decoder_layers", encoder),
        "encoder_layers": encoder,
        "heads": heads,
        "kv_heads": heads,
        "head_width": count(config, "d_kv", 64),
        "feed_forward": count(config, "d_ff"),
        "context": count(config, "n_positions", 512),
        "tied": not head,
        "first_extra": buckets * heads,
        "outside": vocabulary * d + 2 * d + head,
    }


def _bart(config: Mapping[str, Any]) -> Fields:
    """BART: one embedding, learned positions (two more rows than the context) and a norm on each side."""
    d, vocabulary, context = (
        count(config, "d_model"),
        count(config, "vocab_size"),
        count(config, "max_position_embeddings"),
    )
    sides = []
    for side in ("encoder", "decoder"):
        names = (f"{side}_layers", f"{side}_attention_heads", f"{side}_ffn_dim")
        sides.append([count(config, name) for name in names])
    (encoder, *first), (decoder, heads, feed_forward) = sides
    if first != [heads, feed_forward]:
        raise PlanError("the encoder and the decoder of this BART have different widths.", code="E-MODEL-SHAPE")
    head = 0 if config.get("tie_word_embeddings", True) else vocabulary * d
    return {
        "vocabulary": vocabulary,
        "width": d,
        "layers": encoder + decoder,
        "encoder_layers": encoder,
        "heads": heads,
        "kv_heads": heads,
        "head_width": d // heads,
        "feed_forward": feed_forward,
        "context": context,
        "positions": context,
        "tied": not head,
        "norm_biased": True,
        "biased": frozenset((*ATTENTION, *(f"cross_{role}" for role in ATTENTION), "up", "down")),
        "outside": vocabulary * d + 2 * (context + 2) * d + 4 * d + head,
    }


def _vit(config: Mapping[str, Any]) -> Fields:
    """ViT: a class token, a position for it and each patch, the map from patches, a norm behind, a pooler."""
    fields = _common(config)
    d, patch = fields["width"], count(config, "patch_size", 16)
    patches = (count(config, "image_size", 224) // patch) ** 2
    channels, pooled = count(config, "num_channels", 3), count(config, "pooler_output_size", d)
    biased = (*ATTENTION, "up", "down") if config.get("qkv_bias", True) else ("o", "up", "down")
    before = d + (patches + 1) * d + channels * patch * patch * d + d
    return {
        **fields,
        "vocabulary": 0,
        "context": patches + 1,
        "positions": patches + 1,
        "biased": frozenset(biased),
        "outside": before + 2 * d + d * pooled + pooled,
        "before": before,
    }


READERS: Mapping[str, Callable[[Mapping[str, Any]], Fields]] = {
    "bert": _bert,
    "roberta": _bert,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "t5": _t5,
    "t5_gated": _t5,
    "bart": _bart,
    "vit": _vit,
}
