"""k-means as the selectors need it: the centre of the largest cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 20
ROWS_AT_ONCE = 8192


def largest_cluster(points_ND: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """The centre [D] of the cluster with the most points, after 20 rounds of Lloyd's algorithm.

    Centres start at different points drawn at random; one that loses all its points stays where it was. Of two
    clusters of equal size the first counts.
    """
    drawn = np.random.default_rng(seed).permutation(len(points_ND))[:clusters]
    centres_KD = points_ND[np.sort(drawn)].copy()
    for _ in range(ROUNDS):
        nearest_N = _nearest(points_ND, centres_KD)
        counts_K = np.bincount(nearest_N, minlength=len(centres_KD))
        order = np.argsort(nearest_N, kind="stable")
        filled = np.flatnonzero(counts_K)
        starts = np.concatenate([[0], np.cumsum(counts_K[filled])[:-1]])
        sums = np.add.reduceat(points_ND[order], starts, axis=0, dtype=np.float64)
        moved_KD = centres_KD.copy()
        moved_KD[filled] = sums / counts_K[filled, None]
        if np.array_equal(moved_KD, centres_KD):
            break
        centres_KD = moved_KD
    sizes_K = np.bincount(_nearest(points_ND, centres_KD), minlength=len(centres_KD))
    centre: NDArray[np.float32] = centres_KD[int(np.argmax(sizes_K))]
    return centre


def _nearest(points_ND: NDArray[np.float32], centres_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cluster of each point."""
    half_K = 0.5 * np.einsum("kd,kd->k", centres_KD, centres_KD)
    parts = []
    for start in range(0, len(points_ND), ROWS_AT_ONCE):
        parts.append(np.argmin(half_K - points_ND[start : start + ROWS_AT_ONCE] @ centres_KD.T, axis=1))
    return np.concatenate(parts)
