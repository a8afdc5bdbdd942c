"""STM: tokens that the base finds surprising are not learned; what stays is in the base's own manner."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor


class STM(Loss):
    """w_t = 1 where the base's perplexity of the token, 1 / p0(y_t), is at most `threshold`, else 0.

    Selective token masking, arXiv:2501.14315. The loss is the mean over the tokens that stay.
    """

    needs_reference: ClassVar[bool] = True
    weighs: ClassVar[bool] = True

    threshold: float = Field(2.5, ge=1, le=1e9, description="largest perplexity of a token that is learned")

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The sum over the tokens that stay, and their number."""
        from keeptune.losses._weighted_rows import base_losses, weighted_terms

        rows = self.rows(view.batch)
        stays = base_losses(view, rows) <= math.log(self.threshold)
        return weighted_terms(view, rows, lambda log_p, gold, place: stays[place])
