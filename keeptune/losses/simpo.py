"""SimPO: the better answer becomes likelier per token than the worse one, by a margin; no reference is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from keeptune.losses import StepView
from keeptune.losses._pairs import PairLoss

if TYPE_CHECKING:
    from torch import Tensor


class SimPO(PairLoss):
    r"""-log sigmoid(beta (log p(w) / |w| - log p(l) / |l|) - gamma) of each pair, w better and l worse.

    Meng et al. 2024, arXiv:2405.14734; |w| counts an answer's tokens, its end included. Nothing holds the model to
    where it began.
    """

    beta: float = Field(2.0, gt=0, le=1e3, description="factor on the difference, per token")
    gamma: float = Field(1.0, ge=0, le=1e3, description="margin that the better answer is to have")

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over the pairs, and their number."""
        from torch.nn.functional import softplus

        said = self.likelihoods(view)
        margin_P = said.better / said.better_tokens - said.worse / said.worse_tokens
        loss_P = softplus(self.gamma - self.beta * margin_P)
        return loss_P.sum(), len(loss_P)
