"""What a training step holds between the forward and the backward pass, per token: the code's own tensors, counted.

Every number here follows the training step as it is written now; `tests/planning/test_activations.py` counts the saved
tensors of real passes against it, so a change of the step that moves memory is seen there first.

Symbols: D width, H heads, K head width, G key-value heads, F feed-forward width, L layers; b bytes of the base's dtype.

    one layer, base frozen, gradients flowing     norms n_D  +  attention 3 b H K  +  feed-forward m b F

An RMS norm keeps its input in float32 (4 D bytes), a layer norm keeps it as it is (b D). Keys and values count once per
query head. m is 3 with a gate (its input, its activation, the other factor), 4 for GPT-2's activation of several steps,
1 for one that is a single kernel.
"""

from __future__ import annotations

from keeptune.core.shape import ModelShape

SEVERAL_STEPS = ("gpt2",)
FUSED_ROTARY = ("gpt_neox",)
SOFT_CAPPED = ("gemma2",)
MATRIX_ROWS = 256
"""Rows up to this length have attention's own backward pass in bfloat16 on a CPU; others keep their output too."""


def layer_bytes(shape: ModelShape, size: int, row: float) -> float:
    """Bytes per token that one frozen layer keeps.

    Args:
        shape: of the model.
        size: b, bytes of one number of the base.
        row: length of a row in tokens.
    """
    heads = shape.heads * shape.head_width
    norm = (size if shape.norm_biased else 4) * shape.width
    kept: float = shape.layer_norms * norm + 3 * size * heads + feed_forward(shape) * size
    if shape.head_norms:
        kept += 4 * (shape.heads + shape.kv_heads) * shape.head_width
    if shape.family in FUSED_ROTARY:
        # Turned queries and keys are new tensors beside the fused map's output; two parallel norms read one input.
        kept += size * (2 * heads - shape.width)
    if shape.family in SOFT_CAPPED:
        kept += 8 * shape.heads * row
    elif size == 4 or row > MATRIX_ROWS:
        kept += size * heads + 4 * shape.heads
    return kept


def feed_forward(shape: ModelShape) -> int:
    """Numbers per token that the feed-forward sublayer keeps."""
    if shape.gated:
        return 3 * shape.feed_forward
    return (4 if shape.family in SEVERAL_STEPS else 1) * shape.feed_forward


def boundary_bytes(shape: ModelShape, size: int) -> float:
    """Bytes per token outside the layers: the final norm's input, and the angles of rotary positions."""
    norm = (size if shape.norm_biased else 4) * shape.width
    return norm + (0 if shape.positions else 2 * size * shape.head_width)


def kept_bytes(shape: ModelShape, size: int, row: float, own: float = 0, *, checkpointing: bool = False) -> float:
    """Bytes per token of the whole model at the end of the forward pass, or where the backward pass needs the most.

    With checkpointing a layer keeps its input, b D; one layer at a time is computed again and holds everything.

    Args:
        shape: of the model.
        size: b.
        row: length of a row.
        own: numbers per token that the method keeps, all layers together.
        checkpointing: whether layers are computed twice.
    """
    one = layer_bytes(shape, size, row) + own * size / shape.layers
    outside = boundary_bytes(shape, size)
    if checkpointing:
        return shape.layers * size * shape.width + one + outside
    return shape.layers * one + outside
