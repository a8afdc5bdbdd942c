"""IPO: DPO with a target for the margin, so that sure pairs do not drive the model ever further."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import StepView
from keeptune.losses._pairs import PairLoss

if TYPE_CHECKING:
    from torch import Tensor


class IPO(PairLoss):
    r"""(((log p(w) - log p0(w)) - (log p(l) - log p0(l))) - 1 / (2 tau))^2 of each pair, w better and l worse.

    Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036). log p is the mean over an answer's tokens, as
    the paper's authors advise for answers of different lengths; p0 is the checkpoint that the stage started from.
    """

    needs_reference: ClassVar[bool] = True

    tau: float = Field(0.1, gt=0, le=1e3, description="the margin that is aimed at is 1 / (2 tau), in nats per token")

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over the pairs, and their number."""
        moved = self.log_ratios(view)
        margin_P = moved.better / moved.better_tokens - moved.worse / moved.worse_tokens
        loss_P = (margin_P - 1 / (2 * self.tau)).square()
        return loss_P.sum(), len(loss_P)
