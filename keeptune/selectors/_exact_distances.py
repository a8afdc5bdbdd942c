"""Distances to the nearest centre in float64, for the few points that the rounding of float32 could confuse.

|x - c|^2 = |x|^2 + |c|^2 - 2 x c is one matrix product, but it loses digits where x and c are close. It serves to find
the centres that may be the nearest; of these the differences themselves are squared in float64, so that equal points
get equal distances, and a chosen point gets 0. A point is held against each centre once, however often it is asked
about, and not against those that are too far from its block.

Shapes: N points, D width, R points that are asked about, C centres.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from keeptune.selectors._blocks import Blocks, Floats, Places, Wide

ROWS_AT_ONCE = 512


class ExactDistances:
    """Squared distances of points to the nearest of a growing list of centres.

    Args:
        points_ND: the points as they were given.
        held: the same in blocks.
        near: by points and a range of centres, those of them that may be the nearest to one of the points.
    """

    def __init__(self, points_ND: Floats, held: Blocks, near: Callable[[Places, int, int], Places]) -> None:
        self._points, self._held, self._near = points_ND, held, near
        self._values = np.full(len(points_ND), np.inf)
        self._seen = np.zeros(len(points_ND), dtype=np.int64)

    def of(self, places: Places, centres_C: Places) -> Wide:
        """The squared distance of each of these points to the nearest centre (R,).

        Args:
            places: of the points, in the order of the blocks.
            centres_C: places of all centres, in the order of choice.
        """
        for seen in np.unique(self._seen[places]):
            behind = places[self._seen[places] == seen]
            for start in range(0, len(behind), ROWS_AT_ONCE):
                own = behind[start : start + ROWS_AT_ONCE]
                near = self._near(own, int(seen), len(centres_C))
                if len(near):
                    self._see(own, centres_C[near])
            self._seen[behind] = len(centres_C)
        return self._values[places]

    def knows(self, places: Places) -> NDArray[np.bool_]:
        """Which of these points have been asked about before (R,)."""
        known: NDArray[np.bool_] = self._seen[places] > 0
        return known

    def _see(self, places_R: Places, centres_C: Places) -> None:
        held = self._held
        near_RC = held.points[places_R] @ (-2 * held.points[centres_C].T)
        near_RC += held.norms[places_R, None]
        near_RC += held.norms[centres_C]
        least_R = np.minimum(near_RC.min(axis=1), self._values[places_R])
        rows, columns = np.nonzero(near_RC <= least_R[:, None] + held.rounding)
        own = self._points[held.indices[places_R[rows]]].astype(np.float64)
        apart = own - self._points[held.indices[centres_C[columns]]]
        np.minimum.at(self._values, places_R[rows], np.einsum("rd,rd->r", apart, apart))
