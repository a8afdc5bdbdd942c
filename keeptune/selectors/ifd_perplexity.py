"""IFD, a ratio of perplexities, read off a small model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, best
from keeptune.selectors._answer_losses import answer_losses


class IfdPerplexity(Selector):
    """Superfiltering (Li et al. 2024, arXiv:2402.00530): ppl(A | Q) / ppl(A) = exp(loss(A | Q) - loss(A)), below 1.

    It goes by the difference of the mean losses where `ifd` goes by their quotient, so the two order examples
    differently: an answer that is easy by itself has a small difference and any quotient. A small model is enough. The
    paper spreads what is left with facility location: select a larger share here, then run `facility_location` on it.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    most: float = Field(1.0, gt=0, description="a ratio of this or more is dropped")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples by falling ratio; fewer than wanted when more are dropped."""
        losses = answer_losses(examples, context)
        ratios = np.exp(losses.given - losses.alone)
        chosen = best(ratios, self.budget(examples), ratios < self.most)
        found = [float(ratios[place]) for place in chosen]
        reasons = [
            f"perplexity {np.exp(losses.given[i]):.3g} after the request, {np.exp(losses.alone[i]):.3g} without"
            for i in chosen
        ]
        return Selection(tuple(map(int, chosen)), tuple(found), tuple(reasons))
