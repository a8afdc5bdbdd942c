"""Distances to the nearest centre in float64, for the few points that the rounding of float32 could confuse.

|x - c|^2 = |x|^2 + |c|^2 - 2 x c is one matrix product, but it loses digits where x and c are close. It serves to find
the centres that may be the nearest; of these the differences themselves are squared, so that equal points get equal
distances, and a chosen point gets 0. A point is held against each centre once, however often it is asked about.

Shapes: N points, D width, R points that are asked about, C centres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Places = NDArray[np.int64]

ROWS_AT_ONCE = 512
SLACK = 1e-11
"""Rounding of one product in float64, as a share of the largest squared length; D up to some thousands."""


class ExactDistances:
    """Squared distances of points to the nearest of a growing list of centres.

    Args:
        points_ND: the points, in float32.
        middle_D: any point near the middle of them; lengths are taken from there.
        most: centres at most.
    """

    def __init__(self, points_ND: Floats, middle_D: Wide, most: int) -> None:
        self._points, self._middle = points_ND, middle_D
        self._centres = np.empty((most, points_ND.shape[1]))
        self._squares = np.empty(most)
        self._indices = np.empty(most, dtype=np.int64)
        self._count = 0
        self._values = np.full(len(points_ND), np.inf)
        self._seen = np.zeros(len(points_ND), dtype=np.int64)
        self._longest = 0.0

    def add(self, index: int) -> None:
        """The point `index` is a centre from now on."""
        centre_D = self._points[index] - self._middle
        self._centres[self._count], self._squares[self._count] = centre_D, centre_D @ centre_D
        self._indices[self._count] = index
        self._count += 1

    def of(self, places: Places) -> Wide:
        """The squared distance of each of these points to the nearest centre (R,)."""
        for seen in np.unique(self._seen[places]):
            if seen < self._count:
                behind = places[self._seen[places] == seen]
                for start in range(0, len(behind), ROWS_AT_ONCE):
                    self._see(behind[start : start + ROWS_AT_ONCE], int(seen))
        return self._values[places]

    def knows(self, places: Places) -> NDArray[np.bool_]:
        """Which of these points have been asked about before (R,)."""
        known: NDArray[np.bool_] = self._seen[places] > 0
        return known

    def _see(self, places_R: Places, since: int) -> None:
        centres_CD, squares_C = self._centres[since : self._count], self._squares[since : self._count]
        points_RD = self._points[places_R] - self._middle
        squares_R = np.einsum("rd,rd->r", points_RD, points_RD)
        near_RC = points_RD @ (-2 * centres_CD.T)
        near_RC += squares_R[:, None]
        near_RC += squares_C
        self._longest = max(self._longest, float(squares_R.max()), float(squares_C.max()))
        least_R = np.minimum(near_RC.min(axis=1), self._values[places_R])
        rows, columns = np.nonzero(near_RC <= least_R[:, None] + SLACK * self._longest)
        own = self._points[places_R[rows]].astype(np.float64)
        apart = own - self._points[self._indices[since + columns]]
        np.minimum.at(self._values, places_R[rows], np.einsum("rd,rd->r", apart, apart))
        self._seen[places_R] = self._count
