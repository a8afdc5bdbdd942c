"""Retention at a matched target score: two recipes are compared where both have learned equally much.

Checkpoints of one run form a path (target, retention) in training order. Between neighbours it is taken as straight;
the retention at a target score is read where the path first reaches that score, because a user would stop there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Band:
    """Retention at a target score with its bootstrap interval.

    Attributes:
        retention: read from the measured path; None when the path never reaches the score.
        low: low end of the percentile interval over resampled items; None when too few resamples reach the score.
        high: its high end.
        reached: share of resamples that reach the score.
    """

    retention: float | None
    low: float | None
    high: float | None
    reached: float


def retention_at(targets: Sequence[float], retentions: Sequence[float], level: float) -> float | None:
    """Piecewise-linear retention where the target score first reaches `level`.

    Args:
        targets: target score of each checkpoint in training order, the base first; higher is better.
        retentions: retention of the same checkpoints.
        level: target score to read at.

    Returns:
        The retention; that of the first checkpoint if it is already there; None when no checkpoint gets there.

    >>> retention_at([0.25, 0.5, 1.0], [0.0, -0.25, -0.5], 0.75)
    -0.375
    """
    path, kept = np.asarray(targets, dtype=np.float64), np.asarray(retentions, dtype=np.float64)
    if path.ndim != 1 or path.shape != kept.shape or len(path) == 0:
        raise ValueError(f"a path needs one target and one retention per checkpoint; got {path.shape}, {kept.shape}")
    there = np.flatnonzero(path >= level)
    if len(there) == 0:
        return None
    after = int(there[0])
    if after == 0:
        return float(kept[0])
    before = after - 1
    share = (level - path[before]) / (path[after] - path[before])
    return float(kept[before] + share * (kept[after] - kept[before]))


def common_target(paths: Sequence[Sequence[float]]) -> float:
    """The highest target score that every run reaches: the smallest of the runs' best scores."""
    return min(max(path) for path in paths)


def retention_band(
    target_items: ArrayLike,
    retention_items: ArrayLike,
    level: float,
    *,
    confidence: float = 0.90,
    resamples: int = 2_000,
    seed: int = 0,
) -> Band:
    """The same reading with a paired bootstrap: items are drawn once and serve all checkpoints of the path.

    Args:
        target_items: shape (K, N), item scores of K checkpoints on the target.
        retention_items: shape (K, M), item scores of the same checkpoints on the retention suite.
        level: target score to read at.
        confidence: of the two-sided percentile interval.
        resamples: replicates.
        seed: of the generator.

    Returns:
        A band without ends when fewer than half of the resamples reach the level: the comparison is not supported
        there.
    """
    target_KN, kept_KM = np.asarray(target_items, dtype=np.float64), np.asarray(retention_items, dtype=np.float64)
    if target_KN.ndim != 2 or kept_KM.ndim != 2 or len(target_KN) != len(kept_KM):
        raise ValueError(f"expected items of the same checkpoints; got {target_KN.shape} and {kept_KM.shape}")
    generator = np.random.default_rng(seed)
    readings = []
    for _ in range(resamples):
        path = target_KN[:, generator.integers(target_KN.shape[1], size=target_KN.shape[1])].mean(axis=1)
        kept = kept_KM[:, generator.integers(kept_KM.shape[1], size=kept_KM.shape[1])].mean(axis=1)
        readings.append(retention_at(path.tolist(), kept.tolist(), level))
    found = np.array([reading for reading in readings if reading is not None])
    retention = retention_at(target_KN.mean(axis=1).tolist(), kept_KM.mean(axis=1).tolist(), level)
    reached = len(found) / resamples
    if retention is None or reached < 0.5:
        return Band(retention, None, None, reached)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Band(retention, float(low), float(high), reached)
