"""RDS+: the examples most like the queries, every query served in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, embeddings_of, query_embeddings_of
from keeptune.selectors._vectors import unit


class Rds(Selector):
    """Ivison et al. 2025 (arXiv:2503.01807): cosine of position-weighted mean states, queries taking turns.

    Vectors are the published pooling, `weighted`. In each round every query, in order, takes the example most like it
    that nobody has taken; ties go to the lowest index. Padding does not count, which the public code holds only for
    batches of one row.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings", "queries"})
    pooling = "weighted"

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples in the order they were taken; the score is the cosine to the query that took them."""
        count = self.budget(examples)
        points_ND, queries_MD = unit(embeddings_of(examples, context)), unit(query_embeddings_of(context))
        indices, takers = round_robin(queries_MD @ points_ND.T, count)
        scores = [float(points_ND[index] @ queries_MD[taker]) for index, taker in zip(indices, takers, strict=True)]
        reasons = [
            f"cosine {score:.3f} to query {context.queries[taker].id}"
            for score, taker in zip(scores, takers, strict=True)
        ]
        return Selection(tuple(indices), tuple(scores), tuple(reasons))


def round_robin(likeness_MN: NDArray[np.float32], count: int) -> tuple[list[int], list[int]]:
    """`count` places of N, and which of M took each: in turn, the greatest that is left."""
    order_MN = np.argsort(-likeness_MN, axis=1, kind="stable")
    reached = [0] * len(order_MN)
    free = np.ones(likeness_MN.shape[1], dtype=bool)
    indices: list[int] = []
    takers: list[int] = []
    while len(indices) < count:
        taker = len(indices) % len(order_MN)
        while not free[order_MN[taker, reached[taker]]]:
            reached[taker] += 1
        index = int(order_MN[taker, reached[taker]])
        free[index] = False
        indices.append(index)
        takers.append(taker)
    return indices, takers
