"""FLOW: rows that the base finds easy weigh more, hard ones less; fixed before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import Self

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor


class FLOW(Loss):
    """w_i = exp(-l_i / temperature) for every token of row i; l_i is the base's mean loss on the row, in nats.

    The temperature is the median of l_i over the training rows, unless it is set. arXiv:2502.02797; there the weights
    are not normalised, and their median is 1/e: a smaller step by another name.
    """

    needs_reference: ClassVar[bool] = True
    weighs: ClassVar[bool] = True

    temperature: float | None = Field(None, gt=0, le=1e6, description="in nats; unset: the median of the rows' losses")

    def calibrated(self, row_losses: Callable[[str | None], Sequence[float]]) -> Self:
        """With the temperature of the training rows."""
        if self.temperature is not None:
            return self
        found = sorted(row_losses(self.on))
        middle = (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2
        return self.model_copy(update={"temperature": max(middle, 1e-6)})

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The weighted sum over `rows`, and the sum of the weights."""
        from keeptune.losses._weighted_rows import base_losses, weighted_terms

        assert self.temperature is not None, "calibrated before training"
        rows = self.rows(view.batch)
        row_of = view.batch.segment_of()[rows]
        losses = base_losses(view, rows)
        count = len(view.batch.ids)
        total = losses.new_zeros(count).index_add_(0, row_of, losses)
        tokens = losses.new_zeros(count).index_add_(0, row_of, losses.new_ones(len(losses)))
        weights = (-(total / tokens.clamp(min=1)) / self.temperature).exp()[row_of]
        return weighted_terms(view, rows, lambda log_p, gold, place: weights[place])
