"""Farthest-first traversal, exact and lazy.

Each step needs the point that is farthest from all chosen ones. The plain way applies each new centre to all N points:
one matrix-vector product that reads the whole data. But a distance to the nearest centre only falls, so a stale one is
an upper bound. The greedy therefore runs inside a small pool of the points with the largest bounds, kept exact; as
long as its farthest point is farther than every bound outside, it is the farthest of all. Centres that the rest has
not seen yet wait, and are applied together by one matrix product. Pools are nested: the innermost fits into the
processor's cache. All points lie in blocks, and a centre is not applied to a block in which it is too far from every
point to lower a bound (see `_blocks`).

Bounds are in float32. Points whose bounds differ by less than their rounding may be confused; these are measured in
float64 before one is chosen, so that the choices are those of a traversal in float64 throughout. Ties go to the lowest
index.

Shapes: N points, D width, P points of a pool, C waiting centres, K blocks, R candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeptune.selectors._blocks import Blocks, Floats, Places
from keeptune.selectors._clusters import lloyd
from keeptune.selectors._exact_distances import ExactDistances

POOLS = (4096, 512)
WAITING = (256, 64, 1)
"""Sizes of the nested pools, and how many centres may wait at each level, all points first."""
ROWS_AT_ONCE = 1024  # their products with the waiting centres stay in the cache
MEASURED_AT_ONCE = 32
"""Points of the largest bounds that are measured together: a few are cheaper by one product than one by one."""
TAKEN = -np.inf
BLOCKS = 256
FEWEST = 32
"""Points of a block, on average; fewer are not worth telling apart."""
FEWEST_CENTRES = 16
"""Centres for each block; making the blocks costs what a few centres for each do."""
SAMPLE = 16
"""Points for each block, from which its reference is made."""
ROUNDS = 2


def farthest_first(
    points_ND: Floats, first: int, count: int, pools: Sequence[int] = POOLS, blocks: int | None = None
) -> tuple[Places, NDArray[np.float64]]:
    """`count` indices in the order of choice, and the distance of each to the ones before it (0 for the first).

    Args:
        points_ND: finite float32 vectors.
        first: the first choice.
        count: 1 to N.
        pools: sizes of the nested pools, largest first.
        blocks: at most; None: 256. Pools and blocks change the time and not the choices.
    """
    assert 1 <= count <= len(points_ND), "at least one point, at most all"
    most = min(blocks or BLOCKS, len(points_ND) // FEWEST, count // FEWEST_CENTRES)
    held = Blocks(points_ND, _references(points_ND, most))
    nest = Nest(held, pools, count)
    exact = ExactDistances(points_ND, held, nest.whole.near)
    chosen, distances = np.empty(count, dtype=np.int64), np.zeros(count)
    chosen[0] = held.where[first]
    for number in range(1, count):
        nest.take(int(chosen[number - 1]))
        chosen[number], squared = _farthest(nest.leading(), held, exact, chosen[:number])
        distances[number] = np.sqrt(squared)
    return held.indices[chosen], distances


def _references(points_ND: Floats, blocks: int) -> Floats:
    """Vectors around which points lie: the farthest of a sample, each moved to the mean of what is nearest to it."""
    if blocks < 2:
        return points_ND[:1]
    sample_SD = points_ND[:: max(1, len(points_ND) // (SAMPLE * blocks))]
    chosen, _ = farthest_first(sample_SD, 0, blocks, blocks=1)
    return lloyd(sample_SD, sample_SD[chosen], ROUNDS)[1]


def _farthest(pool: Pool, held: Blocks, exact: ExactDistances, centres_C: Places) -> tuple[int, float]:
    """Of the points that may be the farthest, the one that is, and its squared distance."""
    places = pool.places[pool.bounds >= pool.highest - held.rounding]
    if not exact.knows(places).all():
        size = min(len(pool.bounds), MEASURED_AT_ONCE)
        exact.of(pool.places[np.argpartition(pool.bounds, -size)[-size:]], centres_C)
    places = places[np.argsort(held.indices[places])]
    squared = exact.of(places, centres_C)
    best = int(np.argmax(squared))
    return int(places[best]), float(squared[best])


class Pool:
    """Some of the points, each with an upper bound on its squared distance to the nearest centre.

    Attributes:
        places: of its points in the order of the blocks, rising.
        bounds: exact but for rounding once `settle` has run; -inf for a chosen point.
        beyond: no bound outside it is larger, in any pool around it.
        waiting: places of centres that its bounds do not know yet.
    """

    def __init__(self, held: Blocks, points_PD: Floats, places: Places, bounds: Floats, beyond: float) -> None:
        self.held, self.points, self.places, self.bounds, self.beyond = held, points_PD, places, bounds, beyond
        self.norms = held.norms[places]
        self.waiting: list[int] = []

    @property
    def highest(self) -> float:
        """Its largest bound."""
        return float(self.bounds.max())

    def settle(self) -> None:
        """Applies the waiting centres."""
        if self.waiting:
            self._apply(-2 * self.held.points[self.waiting], self.held.norms[self.waiting], 0, len(self.places))
        self.waiting = []

    def _apply(self, centres_CD: Floats, norms_C: Floats, first: int, last: int) -> None:
        """Lowers the bounds of its points from the first up to the last: |x - c|^2 = |x|^2 + |c|^2 + x (-2 c)."""
        for start in range(first, last, ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, last))
            products_PC = self.points[part] @ centres_CD.T
            products_PC += norms_C
            nearest_P = np.maximum(products_PC.min(axis=1) + self.norms[part], 0)
            np.minimum(self.bounds[part], nearest_P, out=self.bounds[part])

    def top(self, size: int) -> Pool:
        """The points with the `size` largest bounds."""
        if size >= len(self.places):
            return Pool(self.held, self.points, self.places, self.bounds.copy(), self.beyond)
        order = np.argpartition(self.bounds, -size - 1)
        inside, beyond = np.sort(order[-size:]), max(self.beyond, float(self.bounds[order[-size - 1]]))
        return Pool(self.held, self.points[inside], self.places[inside], self.bounds[inside], beyond)

    def take(self, place: int) -> None:
        """The point at `place` is a centre from now on."""
        own = np.searchsorted(self.places, place)
        if own < len(self.places) and self.places[own] == place:
            self.bounds[own] = TAKEN
        self.waiting.append(place)


class Whole(Pool):
    """All points; a centre is applied to the blocks in which it may lower a bound.

    Args:
        held: the points.
        most: centres at most.
    """

    def __init__(self, held: Blocks, most: int) -> None:
        unbounded = np.full(len(held.points), np.inf, dtype=np.float32)
        super().__init__(held, held.points, np.arange(len(held.points)), unbounded, -np.inf)
        # What no block has been spared of yet counts as near.
        self._near: NDArray[np.bool_] = np.ones((len(held), most), dtype=np.bool_)
        self._settled = 0

    def near(self, places: Places, since: int, until: int) -> Places:
        """Which of these centres, numbered in the order of choice, may be the nearest to one of these points."""
        return np.flatnonzero(self._near[np.unique(self.held.of(places)), since:until].any(axis=0)) + since

    def settle(self) -> None:
        """Applies the waiting centres."""
        if not self.waiting:
            return
        centres_C = np.array(self.waiting)
        highest_K = np.maximum.reduceat(self.bounds, self.held.starts[:-1])
        reached_KC = self.held.reached(centres_C, highest_K)
        self._near[:, self._settled : self._settled + len(centres_C)] = reached_KC
        self._settled += len(centres_C)
        centres_CD, norms_C = -2 * self.held.points[centres_C], self.held.norms[centres_C]
        for block in np.flatnonzero(reached_KC.any(axis=1)):
            first, last = self.held.starts[block : block + 2].tolist()
            near_C = slice(None) if reached_KC[block].all() else reached_KC[block]
            self._apply(centres_CD[near_C], norms_C[near_C], first, last)
        self.waiting = []


class Nest:
    """All points, and pools within pools; the innermost comes last."""

    def __init__(self, held: Blocks, sizes: Sequence[int], most: int) -> None:
        self.held, self.sizes = held, sizes
        self.whole = Whole(held, most)
        self.pools: list[Pool] = [self.whole]

    def take(self, place: int) -> None:
        """Makes a point a centre."""
        for pool in self.pools:
            pool.take(place)

    def leading(self) -> Pool:
        """A settled pool that holds every point that may be the farthest from all centres."""
        full = (level for level, pool in enumerate(self.pools[:-1]) if len(pool.waiting) >= WAITING[level])
        level = next(full, len(self.pools) - 1)
        while True:
            pool = self.pools[level]
            pool.settle()
            if level == 0 or pool.highest - pool.beyond > self.held.rounding:
                break
            level -= 1
        del self.pools[level + 1 :]
        for size in self.sizes[level:]:
            self.pools.append(self.pools[-1].top(size))
        return pool
