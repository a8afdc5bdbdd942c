"""Lazy greedy maximisation of facility location: a gain is computed again only while it might be the largest.

Shapes: N points, D width, C candidates that are looked at together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 64
CELLS = 1 << 24
"""Similarities held at once, 64 MB."""


def lazy_greedy(points_ND: NDArray[np.float32], count: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """`count` indices in the order of choice, and the gain of each in f(S) = sum_i max_{j in S} (1 + x_i x_j) / 2.

    Candidates are looked at in groups: those with the largest old gains are computed together by one matrix product,
    until the largest new gain is at least every old one. Of equal gains the lowest index is taken.

    Args:
        points_ND: vectors of length 1 (or 0).
        count: 1 to N.
    """
    assert 1 <= count <= len(points_ND), "at least one point, at most all"
    best_N = np.zeros(len(points_ND), dtype=np.float32)
    bounds_N = _gains(points_ND, np.arange(len(points_ND)), best_N)
    indices: list[int] = []
    gains: list[float] = []
    while len(indices) < count:
        chosen = _largest(points_ND, best_N, bounds_N)
        indices.append(chosen)
        gains.append(float(bounds_N[chosen]))
        np.maximum(best_N, (1 + points_ND @ points_ND[chosen]) / 2, out=best_N)
        bounds_N[chosen] = -np.inf
    return tuple(indices), tuple(gains)


def _largest(points_ND: NDArray[np.float32], best_N: NDArray[np.float32], bounds_N: NDArray[np.float64]) -> int:
    """The point with the largest gain; the bounds of those that were looked at are exact afterwards."""
    stale = np.ones(len(points_ND), dtype=bool)
    leader = -1
    while True:
        waiting = np.where(stale, bounds_N, -np.inf)
        if leader >= 0:
            limit = waiting.max()
            # An equal bound of a lower index might still be the first among equals.
            if bounds_N[leader] > limit or (bounds_N[leader] == limit and leader < int(np.argmax(waiting))):
                return leader
        some = min(CANDIDATES, len(points_ND))
        group = np.sort(np.argpartition(-waiting, some - 1)[:some])
        group = group[np.isfinite(waiting[group])]
        if not len(group):
            return leader
        bounds_N[group] = _gains(points_ND, group, best_N)
        stale[group] = False
        leader = int(np.argmax(np.where(stale, -np.inf, bounds_N)))


def _gains(
    points_ND: NDArray[np.float32], candidates: NDArray[np.int64], best_N: NDArray[np.float32]
) -> NDArray[np.float64]:
    """sum_i max(0, s_ic - best_i) of each candidate, in double precision."""
    found = np.empty(len(candidates))
    step = max(1, CELLS // len(points_ND))
    for start in range(0, len(candidates), step):
        part = candidates[start : start + step]
        likeness_CN = (1 + points_ND[part] @ points_ND.T) / 2
        likeness_CN -= best_N
        np.maximum(likeness_CN, 0, out=likeness_CN)
        found[start : start + step] = likeness_CN.sum(axis=1, dtype=np.float64)
    return found
