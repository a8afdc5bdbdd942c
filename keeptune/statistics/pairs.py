"""Item scores before and after, checked once: same items, same order, finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keeptune.statistics.clusters import Sums, cluster_sums
from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.paired_score import score_interval


@dataclass(frozen=True)
class Pairs:
    """Scores of the same items under two models.

    Attributes:
        base: shape (n,).
        adapted: shape (n,).
        clusters: a label per item, or None when items are independent.
    """

    base: NDArray[np.float64]
    adapted: NDArray[np.float64]
    clusters: NDArray[np.generic] | None

    @property
    def n(self) -> int:
        """Items."""
        return len(self.base)

    @property
    def delta(self) -> float:
        """Mean difference; exactly 0 when no item changed."""
        return float((self.adapted - self.base).mean())

    @property
    def means(self) -> tuple[float, float]:
        """Mean score of base and adapted."""
        return float(self.base.mean()), float(self.adapted.mean())

    @property
    def unchanged(self) -> bool:
        """Every item bitwise the same."""
        return bool(np.array_equal(self.base, self.adapted))

    @property
    def binary(self) -> bool:
        """Every score is 0 or 1."""
        return all(bool(np.isin(side, (0.0, 1.0)).all()) for side in (self.base, self.adapted))

    @property
    def flips(self) -> tuple[int, int]:
        """(gains, losses): items that rose, items that fell."""
        return int((self.adapted > self.base).sum()), int((self.adapted < self.base).sum())

    def sums(self) -> Sums:
        """Differences by cluster."""
        return cluster_sums(self.adapted - self.base, clusters=self.clusters)

    def score_interval(self) -> tuple[float, float]:
        """Tango's interval of right-or-wrong items; with clusters, of n / D items.

        D is the design effect, clustered over independent variance of the mean difference, at least 1. Where the
        independent variance is 0 (no flip, or all alike) D is the mean cluster size, as if a cluster were one item.
        """
        share = np.array(self.flips) / self.n
        effective = float(self.n)
        if self.clusters is not None:
            sums = self.sums()
            independent = (share.sum() - (share[0] - share[1]) ** 2) / max(self.n - 1, 1)
            design = float(sums.variance()[0]) / independent if independent > 0 else np.inf
            fewest = float(sums.effective_clusters()[0])
            effective = self.n / max(design, 1.0) if np.isfinite(design) else fewest
        low, high = score_interval(effective, *(share * effective), level=LEVEL)
        return float(low), float(high)


def paired(base: ArrayLike, adapted: ArrayLike, clusters: ArrayLike | None = None) -> Pairs:
    """Checks and joins two lists of item scores.

    Clusters that hold one item each are dropped: the items are independent.

    Raises:
        ValueError: no items, unequal lengths, or a score that is not finite.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(adapted, dtype=np.float64)
    if before.ndim != 1 or before.shape != after.shape or len(before) == 0:
        raise ValueError(
            f"base and adapted need one score for each of the same items; got {before.shape}, {after.shape}"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("every item score must be finite")
    labels = None if clusters is None else np.asarray(clusters)
    if labels is not None and labels.shape != before.shape:
        raise ValueError(f"{len(before)} items need {len(before)} cluster labels, not {labels.shape}")
    if labels is not None and len(np.unique(labels)) == len(labels):
        labels = None
    return Pairs(before, after, labels)
