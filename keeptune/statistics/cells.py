"""The scores of a grid's cells over items and seeds, and what is read across cells, with hierarchical intervals.

All cells and seeds answered the same items. A replicate draws clusters of items once for all of them, so that a
difference of two cells is a paired one; seeds come in as in `keeptune.statistics.seeds`, which widens the interval by
what a few seeds cannot know. With one seed the interval says nothing about another seed.

Shapes: C cells, S seeds, N items, B replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keeptune.statistics.clusters import cluster_weights
from keeptune.statistics.frontiers import Reading
from keeptune.statistics.seeds import seed_interval

Floats = NDArray[np.float64]
LEVEL = 0.90


@dataclass(frozen=True)
class Cells:
    """The score of every cell and seed, as measured (row 0) and in every replicate of the items.

    Attributes:
        values_BCS: replicates x cells x seeds.
        higher_is_better: direction of the score.
    """

    values_BCS: Floats
    higher_is_better: bool

    @classmethod
    def of(
        cls,
        scores_CSN: ArrayLike,
        sizes_N: ArrayLike,
        clusters_N: ArrayLike,
        *,
        higher_is_better: bool,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Cells:
        """Ratios of totals, such as bits over bytes, under draws of clusters.

        Args:
            scores_CSN: of every item.
            sizes_N: its denominator: bytes, or 1.
            clusters_N: a label of each item's cluster.
            higher_is_better: direction of the score.
            resamples: replicates B.
            seed: of the draws.
        """
        scores, sizes = np.asarray(scores_CSN, dtype=np.float64), np.asarray(sizes_N, dtype=np.float64)
        weights_BN = cluster_weights(clusters_N, resamples, np.random.default_rng(seed))
        totals_BCS = np.einsum("bn,csn->bcs", weights_BN, scores, optimize=True)
        return cls(totals_BCS / (weights_BN @ sizes)[:, None, None], higher_is_better)

    def cell(self, place: int) -> Reading:
        """The score of one cell, mean over its seeds."""
        return over_seeds(self.values_BCS[:, place])

    def gain(self, place: int, other: int) -> Reading:
        """How much better one cell is than another; above 0 is better, whatever the direction of the score."""
        sign = 1.0 if self.higher_is_better else -1.0
        return over_seeds(sign * (self.values_BCS[:, place] - self.values_BCS[:, other]))

    def across(self, places: Sequence[int], figure: Callable[[Floats], float]) -> Reading:
        """A figure of the scores of several cells, read for each seed in each replicate.

        Args:
            places: the cells.
            figure: of their scores, in the order of `places`.
        """
        part_BCS = self.values_BCS[:, list(places)]
        found = [[figure(part_BCS[row, :, s]) for s in range(part_BCS.shape[2])] for row in range(len(part_BCS))]
        return over_seeds(np.array(found))


def over_seeds(values_BS: Floats) -> Reading:
    """Mean over seeds with the two-sided 90% interval.

    Args:
        values_BS: row 0 is what was measured of each seed, the others are replicates of the items.
    """
    own_S, deviation_SB = values_BS[0], (values_BS[1:] - values_BS[0]).T
    if not np.isfinite(values_BS).all():
        return Reading(float(own_S.mean()) if np.isfinite(own_S).all() else None)
    tails = np.quantile(deviation_SB, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    if len(own_S) == 1:
        return Reading(float(own_S[0]), float(own_S[0] + tails[0, 0]), float(own_S[0] + tails[1, 0]))
    low, high = seed_interval(own_S, own_S + tails[0], own_S + tails[1], deviation_SB)
    return Reading(float(own_S.mean()), low, high)


def slope(amounts: Sequence[float]) -> Callable[[Floats], float]:
    """How much a score changes with one unit of an amount, by least squares; the amounts are not all the same."""
    centred = np.asarray(amounts, dtype=np.float64) - float(np.mean(amounts))
    return lambda scores: float(centred @ scores / (centred @ centred))
