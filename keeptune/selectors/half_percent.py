"""The whole pipeline of "Maybe only 0.5%": clusters over all tasks, a centre per task, k-center from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, embeddings_of
from keeptune.selectors._clusters import centre_of_most, k_means, most_clusters
from keeptune.selectors._farthest_first import farthest_first
from keeptune.selectors._vectors import unit


class HalfPercent(Selector):
    """Chen et al. 2023, arXiv:2305.09246: a core set of each task, which is a source or a file of its own here.

        e_i = h_i / |h_i|                               the vectors, at length 1
        clusters, centres = k-means of {e_i} over all tasks
        distribution centre of task t = centre of the cluster that most examples of t are in
        task centre = the example of t with the greatest cosine to it
        core set = k-center greedy over the examples of t, the task centre first

    A share is taken of each task, at least one example; `rows` are divided among tasks in proportion to their size.
    The paper gives no number of clusters and no random control of equal size: `data select` prints one beside it.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings"})

    share: float = Field(0.005, gt=0, le=1, description="how much of each task to keep")
    clusters: int | None = Field(None, ge=1, le=2000, description="k-means clusters; unset: sqrt(N / 2), at most 2000")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Task by task, in the order in which tasks first come; the score is the distance to those chosen before."""
        total = self.budget(examples)
        points_ND = unit(embeddings_of(examples, context))
        labels_N, centres_KD = k_means(points_ND, self.clusters or most_clusters(len(points_ND)), context.seed)
        tasks: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            tasks.setdefault(example.source, []).append(place)
        chosen: list[tuple[int, float, str]] = []
        for task, places in tasks.items():
            share = total / len(examples) if self.rows else self.share
            own = np.array(places)
            centre_D = centre_of_most(labels_N[own], centres_KD)
            first = int(np.argmax(points_ND[own] @ centre_D))
            indices, gaps = farthest_first(points_ND[own], first, max(1, round(share * len(own))))
            reasons = ["task centre", *(f"{gap:.4g} from all chosen before" for gap in gaps[1:])]
            named = [f"{reason} of {task}" if len(tasks) > 1 else reason for reason in reasons]
            chosen += zip(own[indices].tolist(), gaps.tolist(), named, strict=True)
        found, scores, said = zip(*chosen, strict=True)
        return Selection(found, scores, said)
