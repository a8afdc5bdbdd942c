"""What a training step holds between the forward and the backward pass, per token: the code's own tensors, counted.

Every number here follows the training step as it is written now; `tests/planning/test_activations.py` counts the saved
tensors of real passes against it, so a change of the step that moves memory is seen there first.

Symbols: D width, H heads, K head width, G key-value heads, F feed-forward width, L layers; b bytes of the base's dtype.

    modules, base frozen, gradients flowing       norms n_D  +  attention b (2 H K + 2 G K)  +  feed-forward m b F
    fused body, which computes cheap parts again  b (2 D + 2 H K + 2 G K + 2 F)

An RMS norm keeps its input in float32 (4 D bytes), a layer norm keeps it as it is (b D). m is 3 with a gate (its input,
its activation, the other factor), 4 for GPT-2's activation of several steps, 1 for one that is a single kernel.
"""

from __future__ import annotations

from keeptune.core.cost import Held
from keeptune.core.shape import ModelShape

NOTHING = Held(0, 0)

FUSED = ("llama", "mistral", "qwen2", "qwen3")
"""Families that have the fused body."""
SEVERAL_STEPS = ("gpt2",)
TURNED = ("gpt_neox",)
SOFT_CAPPED = ("gemma2",)


def layer_bytes(shape: ModelShape, size: int, row: float, *, fused: bool) -> float:
    """Bytes per token that one frozen layer keeps.

    Args:
        shape: of the model.
        size: b, bytes of one number of the base.
        row: length of a row in tokens.
        fused: whether the fused body runs.
    """
    heads, groups = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    kept = attention_bytes(shape, size, row)
    if fused:
        normed = heads + groups if shape.head_norms else 0
        # What the map behind attention reads: in 16 bits its output itself, else a copy with the heads side by side.
        return kept + size * (2 * shape.width + 2 * shape.feed_forward + normed + heads)
    kept += shape.layer_norms * _norm(shape, size) + size * feed_forward(shape)
    return kept + (4 * (heads + groups) if shape.head_norms else 0)


def attention_bytes(shape: ModelShape, size: int, row: float) -> float:
    """Bytes per token that one attention keeps: queries, keys, values, and 4 bytes a head for the softmax.

    In 16 bits keys and values are never repeated. Other dtypes repeat them for the query heads and keep the output; a
    soft cap keeps the scores in three forms. Where one map makes all three, its whole output stays
    as long as one of them does, beside the turned queries and keys.
    """
    heads, groups = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    if shape.family in SOFT_CAPPED:
        return 3 * size * heads + 8 * shape.heads * row
    # Two parallel norms read one input, which the norms count twice.
    turned = size * (2 * heads - shape.width) if shape.family in TURNED else 0
    if size != 2:
        return 4 * size * heads + 4 * shape.heads + turned
    whole = heads + groups if shape.family == "phi3" else 0
    return size * (heads + 2 * groups + whole) + 4 * shape.heads + turned


def feed_forward(shape: ModelShape) -> int:
    """Numbers per token that the feed-forward sublayer keeps."""
    if shape.gated:
        return 3 * shape.feed_forward
    return (4 if shape.family in SEVERAL_STEPS else 1) * shape.feed_forward


def outside_bytes(shape: ModelShape, size: int, *, fused: bool) -> float:
    """Bytes per token outside the layers: the final norm's input, and the angles of rotary positions."""
    norm = size * shape.width if fused else _norm(shape, size)
    return norm + (0 if shape.positions else 2 * size * shape.head_width)


def kept_bytes(shape: ModelShape, size: int, row: float, held: Held = NOTHING, *, quantized: bool = False) -> float:
    """Bytes per token of the whole model at the end of the forward pass.

    Args:
        shape: of the model.
        size: b.
        row: length of a row.
        held: what the method adds to that.
        quantized: whether the base is in 4 bits, which the fused body does not run.
    """
    fused = runs_fused(shape, held, quantized)
    own = held.fused if fused and held.fused is not None else held.modules
    return (
        shape.layers * layer_bytes(shape, size, row, fused=fused) + outside_bytes(shape, size, fused=fused) + own * size
    )


def checkpointed_bytes(shape: ModelShape, size: int) -> float:
    """Bytes per token between the passes when layers are computed twice: each layer's input, and what is outside."""
    return shape.layers * size * shape.width + outside_bytes(shape, size, fused=False)


def runs_fused(shape: ModelShape, held: Held, quantized: bool) -> bool:
    """Whether the fused body runs the step."""
    return held.fused is not None and shape.family in FUSED and not quantized


def _norm(shape: ModelShape, size: int) -> int:
    return (size if shape.norm_biased else 4) * shape.width
