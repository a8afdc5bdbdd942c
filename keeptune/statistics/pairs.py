"""Item scores before and after, checked once: same items, same order, finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from keeptune.statistics.clusters import Sums, cluster_sums
from keeptune.statistics.combined_score import clustered_score_interval
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

    def own_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval of this task alone that needs no resampling.

        Right-or-wrong items: the score interval, with a design effect where items have clusters. Otherwise the normal
        interval of the clustered standard error.
        """
        if self.binary and self.clusters is None:
            low, high = score_interval(self.n, *self.flips, level=level)
        elif self.binary:
            gains, losses = (np.array([float(count)]) for count in self.flips)
            low, high = (end[0] for end in clustered_score_interval(self.sums(), gains, losses, level=level))
        else:
            half = norm.ppf((1 + level) / 2) * np.sqrt(self.sums().variance()[0])
            low, high = self.delta - half, self.delta + half
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
