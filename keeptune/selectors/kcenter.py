"""k-center greedy: each choice is the example farthest from all chosen before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, embeddings_of
from keeptune.selectors._clusters import largest_cluster, most_clusters
from keeptune.selectors._farthest_first import farthest_first
from keeptune.selectors._vectors import unit


class KCenter(Selector):
    """Farthest-first traversal (Gonzalez 1985): S = {first}, then argmax_i min_{j in S} |e_i - e_j|, repeated.

    Its covering radius max_i min_{j in S} |e_i - e_j| is at most twice the least possible one. It seeks out outliers
    by design: look at what was chosen, and compare with `random`.

    `start: task_centre` is the first choice of "Maybe only 0.5%" (arXiv:2305.09246): of all examples the one with the
    greatest cosine to the centre of the largest k-means cluster. The whole of that paper, with several tasks at once,
    is `half_percent`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings"})

    start: Literal["task_centre", "random", "first"] = Field("task_centre", description="the first choice")
    normalise: bool = Field(True, description="scale each vector to length 1, so that distances are of directions")
    clusters: int | None = Field(None, ge=1, le=2000, description="k-means clusters; unset: sqrt(N / 2), at most 2000")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples in the order of choice; the score is the distance to the ones before (0 for the first)."""
        count = self.budget(examples)
        points_ND = embeddings_of(examples, context)
        if self.normalise:
            points_ND = unit(points_ND)
        first = self._first(points_ND, context.seed)
        indices, distances = farthest_first(points_ND, first, count)
        reasons = [f"first choice ({self.start})", *(f"{gap:.4g} from all chosen before" for gap in distances[1:])]
        return Selection(tuple(map(int, indices)), tuple(map(float, distances)), tuple(reasons))

    def _first(self, points_ND: NDArray[np.float32], seed: int) -> int:
        if self.start == "first":
            return 0
        if self.start == "random":
            return int(np.random.default_rng(seed).integers(len(points_ND)))
        centre_D = largest_cluster(points_ND, self.clusters or most_clusters(len(points_ND)), seed)
        return int(np.argmax(unit(points_ND) @ centre_D))
