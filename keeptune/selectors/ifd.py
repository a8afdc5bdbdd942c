"""IFD, a ratio of mean losses: answers whose request helps the model least, while it helps at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, best
from keeptune.selectors._answer_losses import answer_losses


class Ifd(Selector):
    """Instruction-following difficulty (Li et al. 2023, "Cherry", arXiv:2308.12032): loss(A | Q) / loss(A).

    loss is the mean of -log p over the answer's tokens. Above 1 the request makes the answer less likely: such pairs
    do not fit each other and are dropped; the highest of the rest are kept. The published number of the same name by
    Superfiltering is another ratio: `ifd_perplexity`. The paper trains the model shortly on its pool first; whatever
    model is given is asked here as it is.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    most: float = Field(1.0, gt=0, description="a greater ratio is dropped")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples by falling ratio; fewer than wanted when more are dropped."""
        losses = answer_losses(examples, context)
        ratios = losses.given / losses.alone
        chosen = best(ratios, self.budget(examples), ratios <= self.most)
        found = [float(ratios[place]) for place in chosen]
        reasons = [f"loss {losses.given[i]:.3f} after the request, {losses.alone[i]:.3f} without" for i in chosen]
        return Selection(tuple(map(int, chosen)), tuple(found), tuple(reasons))
