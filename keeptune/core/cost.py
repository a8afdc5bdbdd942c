"""Cost: what a method costs on a model of a given shape, in closed form."""

from __future__ import annotations

from typing import NamedTuple


class Held(NamedTuple):
    """Numbers in the base's dtype that a method holds per token for its backward pass, all layers together.

    Attributes:
        modules: beyond what the modules of a frozen base hold.
        fused: beyond what the fused body holds; None where that does not run the method.
    """

    modules: float
    fused: float | None = None


class Cost(NamedTuple):
    """What a method costs on a model; all but the first two are what memory holds for the backward pass.

    Attributes:
        trainable_parameters: the parameters that require gradients after `attach`.
        stored_bytes: the tensors of its saved adapter (float32), or of the saved model where it trains the base.
        held: per token; None where it has not been counted.
        held_per_row: numbers per row, whatever its length.
        virtual_tokens: that it puts before each row.
        template_tokens: virtual ones that it puts around the request of each answer.
    """

    trainable_parameters: int
    stored_bytes: int
    held: Held | None = None
    held_per_row: float = 0
    virtual_tokens: int = 0
    template_tokens: int = 0

    def added(self, rows: float, answers: float) -> float:
        """Virtual tokens in so many rows with so many answers in all."""
        return self.virtual_tokens * rows + self.template_tokens * answers
