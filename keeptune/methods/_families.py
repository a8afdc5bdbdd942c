"""What a family must have for a method to work on it; checked before any compute."""

from __future__ import annotations

from keeptune.core.errors import PlanError
from keeptune.models.families import FAMILIES


def require_prefixes(family: str, method: str) -> None:
    """Refuses a family whose attention cannot take keys and values from outside.

    Args:
        family: of a `ModelShape`, or a `model_type`.
        method: what is asked for.

    Raises:
        PlanError: E-METHOD-FAMILY.
    """
    if family in FAMILIES and not FAMILIES[family].registry:
        raise PlanError(
            f"'{method}' cannot work on a {family} model.",
            code="E-METHOD-FAMILY",
            why="Its disentangled attention scores every key by its distance, which a prefix does not have.",
            fix="These work: lora, bottleneck, parallel, bitfit, prompt, full.",
        )


def require_tokens(family: str, method: str) -> None:
    """Refuses a family that reads no tokens.

    Args:
        family: of a `ModelShape`, or a `model_type`.
        method: what is asked for.

    Raises:
        PlanError: E-METHOD-FAMILY.
    """
    if family in FAMILIES and FAMILIES[family].kind == "image":
        raise PlanError(
            f"'{method}' cannot work on a {family} model.",
            code="E-METHOD-FAMILY",
            why="It reads images; there is no text to put virtual tokens before.",
            fix="These work: prefix, lora, bottleneck, parallel, bitfit, full.",
        )
