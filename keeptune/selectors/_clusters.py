"""k-means as the selectors need it: Lloyd's algorithm, and the centre of the largest cluster."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROUNDS = 20
ROWS_AT_ONCE = 8192


def most_clusters(points: int) -> int:
    """sqrt(N / 2), at least 1 and at most 2,000: how many clusters are made when nobody says."""
    return max(1, min(2000, round(math.sqrt(points / 2))))


def k_means(points_ND: Floats, clusters: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """The cluster of each point [N] and the centres [K, D], after at most 20 rounds of Lloyd's algorithm.

    Centres start at different points drawn at random; one that loses all its points stays where it was.
    """
    drawn = np.random.default_rng(seed).permutation(len(points_ND))[:clusters]
    return lloyd(points_ND, points_ND[np.sort(drawn)], ROUNDS)


def lloyd(points_ND: Floats, centres_KD: Floats, rounds: int) -> tuple[NDArray[np.int64], Floats]:
    """The cluster of each point [N] and the centres [K, D], which start where they are given, after so many rounds."""
    for _ in range(rounds):
        nearest_N = nearest_of(points_ND, centres_KD)
        counts_K = np.bincount(nearest_N, minlength=len(centres_KD))
        filled = np.flatnonzero(counts_K)
        moved_KD = centres_KD.copy()
        moved_KD[filled] = _sums(points_ND, nearest_N, len(centres_KD))[filled] / counts_K[filled, None]
        if np.array_equal(moved_KD, centres_KD):
            return nearest_N, centres_KD
        centres_KD = moved_KD
    return nearest_of(points_ND, centres_KD), centres_KD


def largest_cluster(points_ND: Floats, clusters: int, seed: int) -> Floats:
    """The centre [D] of the cluster with the most points; of two of equal size the first counts."""
    labels_N, centres_KD = k_means(points_ND, clusters, seed)
    return centre_of_most(labels_N, centres_KD)


def centre_of_most(labels: NDArray[np.int64], centres_KD: Floats) -> Floats:
    """The centre [D] of the cluster that most of these points are in; of equal ones the first."""
    centre: Floats = centres_KD[int(np.argmax(np.bincount(labels, minlength=len(centres_KD))))]
    return centre


def _sums(points_ND: Floats, labels_N: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    """The sum of the points of each cluster [K, D]; a part of the points is sorted at a time, never all."""
    sums_KD = np.zeros((clusters, points_ND.shape[1]))
    for start in range(0, len(points_ND), ROWS_AT_ONCE):
        part = labels_N[start : start + ROWS_AT_ONCE]
        order = np.argsort(part, kind="stable")
        present, firsts = np.unique(part[order], return_index=True)
        sorted_RD = points_ND[start : start + ROWS_AT_ONCE][order]
        sums_KD[present] += np.add.reduceat(sorted_RD, firsts, axis=0, dtype=np.float64)
    return sums_KD


def nearest_of(points_ND: Floats, centres_KD: Floats) -> NDArray[np.int64]:
    """The cluster of each point."""
    half_K = 0.5 * np.einsum("kd,kd->k", centres_KD, centres_KD)
    parts = []
    for start in range(0, len(points_ND), ROWS_AT_ONCE):
        parts.append(np.argmin(half_K - points_ND[start : start + ROWS_AT_ONCE] @ centres_KD.T, axis=1))
    return np.concatenate(parts)
