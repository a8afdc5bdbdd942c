"""Cluster sums: the only thing about the items that a clustered interval needs.

Items of one document, passage or template rise and fall together, so the cluster is the unit that is resampled. Every
statistic here is a ratio of totals, or a mean of such ratios over tasks:

    mean difference        sum of differences         / number of items
    relative change        sum of (adapted - base)    / sum of base            (bits; bytes cancel)

Shapes: N data sets side by side (1 outside simulations), U distinct clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Cluster totals of one task (a stratum).

    Attributes:
        numerators: shape (N, U).
        denominators: shape (N, U), positive.
        multiplicity: shape (U,), how many clusters have exactly these totals. Thousands of single right-or-wrong items
            have three kinds of total, which makes resampling them cheap and changes no distribution.
    """

    numerators: Floats
    denominators: Floats
    multiplicity: NDArray[np.int64]

    @property
    def clusters(self) -> int:
        """Number of clusters G."""
        return int(self.multiplicity.sum())

    def ratio(self) -> Floats:
        """Total of numerators over total of denominators, shape (N,)."""
        return np.asarray(self.numerators @ self.multiplicity / (self.denominators @ self.multiplicity))

    def effective_clusters(self) -> Floats:
        """Kish's (sum m)^2 / sum m^2 over cluster sizes m, shape (N,): G when equal, less when few dominate."""
        total, squares = self.denominators @ self.multiplicity, self.denominators**2 @ self.multiplicity
        return np.asarray(total**2 / squares)

    def residuals(self) -> Floats:
        """Numerator minus ratio times denominator: the part of a cluster that its size does not explain, (N, U)."""
        return np.asarray(self.numerators - self.ratio()[:, None] * self.denominators)

    def variance(self) -> Floats:
        """Linearised variance of the ratio with clusters as units, G / (G - 1) sum e^2 / (sum m)^2, shape (N,).

        One cluster has no spread to learn from: infinite, unless nothing changed in it.
        """
        if self.clusters == 1:
            return np.where((self.numerators == 0).all(axis=1), 0.0, np.inf)
        squares = self.residuals() ** 2 @ self.multiplicity
        return np.asarray(squares * self.clusters / (self.clusters - 1) / (self.denominators @ self.multiplicity) ** 2)


def cluster_sums(
    numerators: ArrayLike, denominators: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Sums:
    """Adds items up by cluster.

    Args:
        numerators: one finite value per item.
        denominators: one positive value per item; 1 each when absent.
        clusters: a label per item, of any kind that sorts; every item its own cluster when absent.

    Raises:
        ValueError: no items, unequal lengths, a value that is not finite, or a denominator that is not positive.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    if top.ndim != 1 or len(top) == 0 or bottom.shape != top.shape:
        raise ValueError(f"expected one value per item; got shapes {top.shape} and {bottom.shape}")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all() and (bottom > 0).all()):
        raise ValueError("every value must be finite and every denominator positive")
    if clusters is not None:
        labels = np.asarray(clusters)
        if labels.shape != top.shape:
            raise ValueError(f"{len(top)} items need {len(top)} cluster labels, not {labels.shape}")
        kinds, position = np.unique(labels, return_inverse=True)
        totals = np.zeros((2, len(kinds)))
        for row, values in zip(totals, (top, bottom), strict=True):
            np.add.at(row, position, values)
        top, bottom = totals
    distinct, multiplicity = np.unique(np.stack([top, bottom], axis=1), axis=0, return_counts=True)
    return Sums(distinct[None, :, 0], distinct[None, :, 1], multiplicity.astype(np.int64))


def cluster_weights(labels_N: ArrayLike, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each item counts when clusters are drawn with replacement, (1 + B, N); row 0: every item once.

    Args:
        labels_N: of each item's cluster.
        resamples: draws B.
        generator: that draws.
    """
    kinds, place_N = np.unique(np.asarray(labels_N), return_inverse=True)
    drawn = generator.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=resamples)
    return np.asarray(np.concatenate([np.ones((1, len(kinds))), drawn])[:, place_N])
