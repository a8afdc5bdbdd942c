"""Points in blocks that lie close together, and which blocks a new centre leaves as they are.

A point of block k is x = m_k + r, with m_k the block's reference; a centre that lies in block j is c = m_j + s. Then

    |x - c|^2 = |r|^2 + |c - m_k|^2 - 2 r (c - m_k)   and   r (c - m_k) = r (m_j - m_k) + r s <= h_kj + |r||s|,

with h_kj the largest r (m_j - m_k) in block k, known from one product of all points with all references. So a block
whose points are all far from c is told without looking at them. The triangle inequality, which is this without h, tells
little in many dimensions, where a point is nearly as far from its own reference as from others.

Shapes: N points, D width, K blocks, P points of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeptune.selectors._clusters import nearest_of

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Places = NDArray[np.int64]

DEVIATIONS = 8
"""Of a sum of D rounded products from its true value, in units of sqrt(D) u |x||c|, u = 2^-24. Rounding errors add like
a random walk (Higham and Mary 2019); a sum further off than eight is expected once in 10^14."""
SUMS_OF_A_DISTANCE, SUMS_OF_A_REACH = 4, 16


class Blocks:
    """Float32 vectors around their middle, those of a block on end.

    Attributes:
        points: (N, D) in the order of the blocks; distances are those of the points given.
        norms: |x|^2 (N,).
        indices: of each in the points given (N,).
        where: the inverse of `indices`.
        starts: of the blocks, and N (K + 1,).
        rounding: squared distances that differ by less may be in the wrong order. Each is |x|^2 + |c|^2 - 2 x c, four
            sums of products at most (longest vector)^2 large.
    """

    def __init__(self, points_ND: Floats, references_KD: Floats) -> None:
        labels_N = nearest_of(points_ND, references_KD)
        self.indices: Places = np.argsort(labels_N, kind="stable")
        self.where: Places = np.empty_like(self.indices)
        self.where[self.indices] = np.arange(len(points_ND))
        filled, counts = np.unique(labels_N, return_counts=True)
        self.starts: Places = np.concatenate([[0], np.cumsum(counts)])
        # Distances do not change; sums of squares around the middle lose fewer digits.
        middle_D = points_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.points: Floats = points_ND[self.indices]
        self.points -= middle_D
        self.norms: Floats = np.einsum("nd,nd->n", self.points, self.points)
        deviation = DEVIATIONS * float(np.sqrt(points_ND.shape[1])) * 2.0**-24
        self.rounding = 2 * SUMS_OF_A_DISTANCE * deviation * float(self.norms.max())
        self._around(references_KD[filled] - middle_D)
        self._slack = SUMS_OF_A_REACH * deviation * float(max(self.norms.max(), self._squares.max())) + self.rounding

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, places: Places) -> Places:
        """The block of each of these places in `points`."""
        found: Places = np.searchsorted(self.starts, places, side="right") - 1
        return found

    def reached(self, centres_C: Places, highest_K: Floats) -> NDArray[np.bool_]:
        """In which blocks each centre may be nearer to some point than a squared distance (K, C).

        Args:
            centres_C: their places in `points`.
            highest_K: the largest squared distance that matters in each block.
        """
        own_C = self.of(centres_C)
        centres_CD = self.points[centres_C]
        products_KC = (self._references @ centres_CD.T).astype(np.float64)
        apart_KC = self._squares[:, None] + self.norms[centres_C] - 2 * products_KC  # |c - m_k|^2
        lengths_C = np.linalg.norm(centres_CD - self._references[own_C], axis=1)  # |s|
        # |r|^2 - 2 |r||s| is least where |r| = |s|, or at the end of the block's range that is nearest to it.
        radii_KC = np.clip(lengths_C, self._least[:, None], self._most[:, None])
        least_KC = apart_KC + radii_KC * (radii_KC - 2 * lengths_C) - 2 * self._along[:, own_C]
        reached: NDArray[np.bool_] = least_KC < highest_K[:, None] + self._slack
        return reached

    def _around(self, references_KD: Floats) -> None:
        """What `reached` needs of the blocks: h by the block of the centre, and the least and largest |r|."""
        self._references = references_KD
        between_KK = references_KD.astype(np.float64) @ references_KD.T.astype(np.float64)
        self._squares = np.diagonal(between_KK).copy()
        self._along = np.empty((len(self), len(self)))
        self._least, self._most = np.empty(len(self)), np.empty(len(self))
        for block in range(len(self)):
            points_PD = self.points[self.starts[block] : self.starts[block + 1]]
            products_PK = points_PD @ references_KD.T
            highest_K = (products_PK - products_PK[:, block, None]).max(axis=0).astype(np.float64)
            self._along[block] = highest_K - between_KK[block] + self._squares[block]
            lengths_P = np.linalg.norm(points_PD - references_KD[block], axis=1)
            self._least[block], self._most[block] = lengths_P.min(), lengths_P.max()
