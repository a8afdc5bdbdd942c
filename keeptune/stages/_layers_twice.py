"""Gradient checkpointing of some layers: their activations are computed a second time instead of being kept."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from keeptune.stages._settings import Memory


def compute_layers_twice(model: PreTrainedModel, memory: Memory, needed: int = 0) -> tuple[int, int]:
    """Computes the lowest layers twice; the upper ones, whose backward pass comes first, keep their activations.

    Args:
        model: not changed where no layer is wanted.
        memory: how many are wanted.
        needed: what `auto` comes to.

    Returns:
        How many are computed twice, and of how many.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    wanted = memory.layers_twice(len(layers), needed)
    if wanted:
        # The method has another name in later versions of transformers.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        for layer in layers[wanted:]:
            layer.gradient_checkpointing = False
    return wanted, len(layers)
