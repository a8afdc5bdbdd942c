"""Farthest-first traversal, exact and lazy.

Each step needs the point that is farthest from all chosen ones. The plain way applies each new centre to all N points:
one matrix-vector product that reads the whole data. But a distance to the nearest centre only falls, so a stale one is
an upper bound. The greedy therefore runs inside a small pool of the points with the largest bounds, kept exact; as
long as its farthest point is farther than every bound outside, it is the farthest of all. Centres that the rest has
not seen yet wait, and are applied together by one matrix product. Pools are nested: the innermost fits into the
processor's cache.

Bounds are in float32. Points whose bounds differ by less than their rounding may be confused; these are measured in
float64 before one is chosen, so that the choices are those of a traversal in float64 throughout. Ties go to the lowest
index.

Shapes: N points, D width, P points of a pool, C waiting centres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeptune.selectors._exact_distances import ExactDistances, Floats, Places

POOLS = (4096, 512)
WAITING = (256, 64, 1)
"""Sizes of the nested pools, and how many centres may wait at each level, all points first."""
ROWS_AT_ONCE = 1024  # their products with the waiting centres stay in the cache
MEASURED_AT_ONCE = 32
"""Points of the largest bounds that are measured together: a few are cheaper by one product than one by one."""
TAKEN = -np.inf
DEVIATIONS = 8
"""Of a sum of D rounded products from its true value, in units of sqrt(D) u |x||c|, u = 2^-24. Rounding errors add like
a random walk (Higham and Mary 2019); a sum further off than eight is expected once in 10^14."""


def farthest_first(
    points_ND: Floats, first: int, count: int, pools: Sequence[int] = POOLS
) -> tuple[Places, NDArray[np.float64]]:
    """`count` indices in the order of choice, and the distance of each to the ones before it (0 for the first).

    Args:
        points_ND: finite float32 vectors.
        first: the first choice.
        count: 1 to N.
        pools: sizes of the nested pools, largest first.
    """
    assert 1 <= count <= len(points_ND), "at least one point, at most all"
    middle_D = points_ND.mean(axis=0, dtype=np.float64)
    # Distances do not change; sums of squares around the middle lose fewer digits.
    nest = Nest(points_ND - middle_D.astype(np.float32), pools)
    exact = ExactDistances(points_ND, middle_D, count)
    indices, distances = [first], [0.0]
    while len(indices) < count:
        nest.take(indices[-1])
        exact.add(indices[-1])
        index, squared = _farthest(nest.leading(), nest.rounding, exact)
        indices.append(index)
        distances.append(float(np.sqrt(squared)))
    return np.array(indices), np.array(distances)


def _farthest(pool: Pool, rounding: float, exact: ExactDistances) -> tuple[int, float]:
    """Of the points that may be the farthest, the one that is, and its squared distance."""
    places = pool.places[pool.bounds >= pool.highest - rounding]
    if not exact.knows(places).all():
        size = min(len(pool.bounds), MEASURED_AT_ONCE)
        exact.of(pool.places[np.argpartition(pool.bounds, -size)[-size:]])
    squared = exact.of(places)
    best = int(np.argmax(squared))
    return int(places[best]), float(squared[best])


class Pool:
    """Some of the points, each with an upper bound on its squared distance to the nearest centre.

    Attributes:
        places: indices of its points, rising.
        bounds: exact but for rounding once `settle` has run; -inf for a chosen point.
        beyond: no bound outside it is larger, in any pool around it.
        waiting: centres that its bounds do not know yet.
    """

    def __init__(self, points_PD: Floats, places: Places, bounds: Floats, beyond: float) -> None:
        self.points, self.places, self.bounds, self.beyond = points_PD, places, bounds, beyond
        self.norms = np.einsum("pd,pd->p", points_PD, points_PD)
        self.waiting: list[Floats] = []

    @property
    def highest(self) -> float:
        """Its largest bound."""
        return float(self.bounds.max())

    def settle(self) -> None:
        """Applies the waiting centres: |x - c|^2 = |x|^2 + |c|^2 - 2 x c."""
        if not self.waiting:
            return
        centres_CD = np.stack(self.waiting)
        norms_C = np.einsum("cd,cd->c", centres_CD, centres_CD)
        for start in range(0, len(self.places), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            products_PC = self.points[part] @ (-2 * centres_CD.T)
            products_PC += norms_C
            nearest_P = np.maximum(products_PC.min(axis=1) + self.norms[part], 0)
            np.minimum(self.bounds[part], nearest_P, out=self.bounds[part])
        self.waiting = []

    def top(self, size: int) -> Pool:
        """The points with the `size` largest bounds."""
        if size >= len(self.places):
            return Pool(self.points, self.places, self.bounds.copy(), self.beyond)
        order = np.argpartition(self.bounds, -size - 1)
        inside, beyond = np.sort(order[-size:]), max(self.beyond, float(self.bounds[order[-size - 1]]))
        return Pool(self.points[inside], self.places[inside], self.bounds[inside], beyond)

    def take(self, index: int, centre_D: Floats) -> None:
        """The point `index` of the whole is a centre from now on."""
        place = np.searchsorted(self.places, index)
        if place < len(self.places) and self.places[place] == index:
            self.bounds[place] = TAKEN
        self.waiting.append(centre_D)


class Nest:
    """All points, and pools within pools; the innermost comes last.

    Attributes:
        rounding: squared distances that differ by less may be in the wrong order. Each is |x|^2 + |c|^2 - 2 x c, four
            sums of products at most (longest vector)^2 large.
    """

    def __init__(self, points_ND: Floats, sizes: Sequence[int]) -> None:
        unbounded = np.full(len(points_ND), np.inf, dtype=np.float32)
        self.sizes = sizes
        self.pools = [Pool(points_ND, np.arange(len(points_ND)), unbounded, -np.inf)]
        sums = 2 * 4 * DEVIATIONS * float(np.sqrt(points_ND.shape[1]))
        self.rounding = sums * 2.0**-24 * float(self.pools[0].norms.max())

    def take(self, index: int) -> None:
        """Makes a point a centre."""
        centre_D = self.pools[0].points[index]
        for pool in self.pools:
            pool.take(index, centre_D)

    def leading(self) -> Pool:
        """A settled pool that holds every point that may be the farthest from all centres."""
        full = (level for level, pool in enumerate(self.pools[:-1]) if len(pool.waiting) >= WAITING[level])
        level = next(full, len(self.pools) - 1)
        while True:
            pool = self.pools[level]
            pool.settle()
            if level == 0 or pool.highest - pool.beyond > self.rounding:
                break
            level -= 1
        del self.pools[level + 1 :]
        for size in self.sizes[level:]:
            self.pools.append(self.pools[-1].top(size))
        return pool
