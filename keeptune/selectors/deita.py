"""DEITA-style: the best by a model's own marks, unless one like it was taken already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, best, embeddings_of
from keeptune.selectors._marks import complexity_and_quality
from keeptune.selectors._vectors import unit


class Deita(Selector):
    """Score first, diversify second (Liu et al. 2023, arXiv:2312.15685).

        score = sum over turns of quality * complexity, each the expected mark from 1 to 6
        by falling score: take an example unless its cosine to one taken already reaches `alike`; stop at the budget

    The paper's marks come from two models trained for it; here the given model is asked for them, in words of this
    project, and the mean of its distribution over the six marks counts. A model that follows no instructions gives
    marks that mean nothing.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings", "model"})

    alike: float = Field(0.9, gt=-1, le=1, description="cosine from which two examples are the same thing")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples by falling score; fewer than wanted when the others are all like one of them."""
        count = self.budget(examples)
        points_ND = unit(embeddings_of(examples, context))
        marks = complexity_and_quality(examples, context)
        scores = np.array([sum(hard * good for hard, good in own) if own else np.nan for own in marks])
        chosen = diversified(points_ND, best(scores, len(examples)), count, self.alike)
        reasons = [
            " + ".join(f"complexity {hard:.2f} x quality {good:.2f}" for hard, good in marks[place]) for place in chosen
        ]
        return Selection(tuple(chosen), tuple(float(scores[place]) for place in chosen), tuple(reasons))


def diversified(points_ND: NDArray[np.float32], order: NDArray[np.int64], count: int, alike: float) -> list[int]:
    """In this order, at most `count` places whose cosine to every one before stays below `alike`."""
    chosen: list[int] = []
    nearest_N = np.full(len(points_ND), -np.inf, dtype=np.float32)
    for place in order.tolist():
        if nearest_N[place] >= alike:
            continue
        chosen.append(place)
        if len(chosen) == count:
            break
        np.maximum(nearest_N, points_ND @ points_ND[place], out=nearest_N)
    return chosen
