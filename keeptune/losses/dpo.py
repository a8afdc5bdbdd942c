"""DPO: the better answer becomes more likely than the worse one, measured from where the model began."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import StepView
from keeptune.losses._pairs import PairLoss

if TYPE_CHECKING:
    from torch import Tensor


class DPO(PairLoss):
    r"""-log sigmoid(beta ((log p(w) - log p0(w)) - (log p(l) - log p0(l)))) of each pair, w better and l worse.

    Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290). p0 is the checkpoint that the stage started
    from; log p is the sum over an answer's tokens, its end included. `smoothing` supposes that this share of the pairs
    is the wrong way round (cDPO). The prompt of a pair is computed once where the method allows it.
    """

    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, le=1e3, description="how hard the model is held to where it began")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of the pairs that are the wrong way round")

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over the pairs, and their number."""
        from torch.nn.functional import softplus

        moved = self.log_ratios(view)
        margin_P = self.beta * (moved.better - moved.worse)
        loss_P = softplus(-margin_P)
        if self.smoothing:
            loss_P = (1 - self.smoothing) * loss_P + self.smoothing * softplus(margin_P)
        return loss_P.sum(), len(loss_P)
