"""What a choice is like beside all that could have been chosen: how it covers, what it resembles, how long it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.data.normalise import whole, words
from keeptune.selectors._vectors import ROWS_AT_ONCE, nearest_cosine, unit


class Appraisal(NamedTuple):
    """Measures of a choice S among N examples with vectors e at length 1.

    Attributes:
        radius: max_i min_{j in S} |e_i - e_j|, the coverage radius; one outlier decides it.
        distance: the mean over i of the same distance to the nearest chosen example.
        nearest_query: mean over S of the greatest cosine to a query; None without queries.
        words: median words of a chosen example, without its system turn.
        answer_words: median words of its answer.
        answers: distinct answers.
    """

    radius: float
    distance: float
    nearest_query: float | None
    words: float
    answer_words: float
    answers: int


class Appraiser:
    """Appraises choices among the same examples.

    Args:
        examples: [N] what could be chosen.
        points: [N, D] their vectors.
        queries: [M, D] vectors of queries, of the same encoder.
    """

    def __init__(
        self, examples: Sequence[Example], points: NDArray[np.float32], queries: NDArray[np.float32] | None = None
    ) -> None:
        self.points, self.queries = unit(points), None if queries is None else unit(queries)
        self.words = np.array([len(whole(example)) for example in examples])
        self.answer_words = np.array([len(words(example.target)) for example in examples])
        self.answers = [example.target for example in examples]

    def __call__(self, indices: Sequence[int]) -> Appraisal:
        """Of the examples at these places, of which there is at least one."""
        chosen = np.array(indices)
        distances = nearest_distance(self.points, self.points[chosen])
        alike = None if self.queries is None else float(nearest_cosine(self.points[chosen], self.queries).mean())
        return Appraisal(
            float(distances.max()),
            float(distances.mean(dtype=np.float64)),
            alike,
            float(np.median(self.words[chosen])),
            float(np.median(self.answer_words[chosen])),
            len({self.answers[place] for place in indices}),
        )


def nearest_distance(points_ND: NDArray[np.float32], others_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each of N points the least Euclidean distance to any of M others [N]."""
    norms_M = np.einsum("md,md->m", others_MD, others_MD)
    parts = []
    for start in range(0, len(points_ND), ROWS_AT_ONCE):
        part = points_ND[start : start + ROWS_AT_ONCE]
        nearest = (norms_M - 2 * (part @ others_MD.T)).min(axis=1) + np.einsum("nd,nd->n", part, part)
        parts.append(np.sqrt(np.maximum(nearest, 0)))
    found: NDArray[np.float32] = np.concatenate(parts)
    return found
