"""DFT: each token's loss times the probability that the model gives it now; tokens it finds unlikely pull less."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor


class DFT(Loss):
    """w_t = p(y_t), held constant: the gradient is that of -p(y_t), the weight normalised to mean 1.

    Dynamic fine-tuning, arXiv:2508.05629. With `kl_to_base` beside it (weight 0.1) it is ASFT: see the recipe `asft`.
    """

    weighs: ClassVar[bool] = True

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The weighted sum over `rows`, and the sum of the weights."""
        from keeptune.losses._weighted_rows import weighted_terms

        return weighted_terms(view, self.rows(view.batch), lambda log_p, gold, place: gold.exp())
