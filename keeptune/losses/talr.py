"""TALR: tokens that are hard for the model now learn at a lower rate, down to a floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor


class TALR(Loss):
    """w_t = max(p(y_t)^(1 / temperature), floor), held constant and normalised to mean 1.

    Token-adaptive loss reweighting, arXiv:2509.20758. At temperature 1 without a floor it
    is `dft`; at a large one, next_token.
    """

    weighs: ClassVar[bool] = True

    temperature: float = Field(1.0, gt=0, le=1e6, description="in nats: a loss of this size weighs 1/e")
    floor: float = Field(0.01, ge=0, le=1, description="the least weight, before normalising")

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The weighted sum over `rows`, and the sum of the weights."""
        from keeptune.losses._weighted_rows import weighted_terms

        return weighted_terms(
            view,
            self.rows(view.batch),
            lambda log_p, gold, place: (gold / self.temperature).exp().clamp(min=self.floor),
        )
