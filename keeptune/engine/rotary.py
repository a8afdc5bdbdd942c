"""Rotary embeddings whose frequencies depend on the longest row of a forward pass.

`longrope` (Phi-3) has two sets of frequencies, for rows up to the original context and for longer ones; `dynamic`
has another set for every length beyond the context. transformers chooses one set per forward pass, so in a mixed
batch a short row would be turned by the long row's frequencies. Rows that choose differently go separate ways here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from keeptune.core.errors import PlanError


def rotary_groups(config: PreTrainedConfig, lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows that may share a forward pass; one group for every model but a `longrope` one.

    Raises:
        PlanError: a row reaches the length at which `dynamic` frequencies begin to move (E-MODEL-ROPE).
    """
    everyone = list(range(len(lengths)))
    for rope in _ropes(config):
        if rope["rope_type"] == "dynamic" and max(lengths, default=0) >= config.max_position_embeddings:
            raise PlanError(
                f"a row of {max(lengths)} tokens reaches the context of {config.max_position_embeddings}, beyond which "
                "this model's `dynamic` rotary frequencies depend on the other rows of the batch.",
                code="E-MODEL-ROPE",
                fix="Use shorter rows (too_long: cut or drop), or a model with yarn, llama3 or linear scaling.",
            )
        if rope["rope_type"] == "longrope":
            limit = rope["original_max_position_embeddings"]
            short = [row for row in everyone if lengths[row] <= limit]
            long = [row for row in everyone if lengths[row] > limit]
            return [group for group in (short, long) if group]
    return [everyone]


def depends_on_length(config: PreTrainedConfig) -> bool:
    """Whether the frequencies depend on the highest position of a forward pass."""
    return any(rope["rope_type"] in ("dynamic", "longrope") for rope in _ropes(config))


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The rotary settings: one, or one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [settings] if "rope_type" in settings else [rope for rope in settings.values() if isinstance(rope, dict)]
