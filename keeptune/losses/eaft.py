"""EAFT: each token's loss times the model's own uncertainty; a token it is sure of, and wrong about, pulls little."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor


def top_entropy(log_p_CV: Tensor, top: int) -> Tensor:
    """Entropy of the `top` most likely tokens, renormalised, as a share of ln(top): 0 is sure, 1 knows nothing. [C]."""
    import math

    import torch

    largest = log_p_CV.topk(min(top, log_p_CV.shape[-1]), dim=-1).values
    log_q = torch.log_softmax(largest, dim=-1)
    # What has no probability has no entropy: 0 * -inf is 0 here.
    entropy = -(log_q.exp() * log_q).nan_to_num().sum(-1)
    return (entropy / math.log(largest.shape[-1])).clamp(0, 1)


class EAFT(Loss):
    """w_t = (H_top(p_t) / ln top)^alpha, held constant and normalised to mean 1.

    H_top is the entropy of the `top` most likely tokens at position t. Entropy-adaptive fine-tuning, arXiv:2601.02151.
    Facts that contradict the base are learned slowly on purpose: not for teaching new knowledge.
    """

    weighs: ClassVar[bool] = True

    top: int = Field(20, ge=2, le=100_000, description="tokens that the entropy looks at")
    alpha: float = Field(1.0, ge=0, le=10, description="power of the weight; 0 is next_token")

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The weighted sum over `rows`, and the sum of the weights."""
        from keeptune.losses._weighted_rows import weighted_terms

        return weighted_terms(
            view, self.rows(view.batch), lambda log_p, gold, place: top_entropy(log_p, self.top) ** self.alpha
        )
