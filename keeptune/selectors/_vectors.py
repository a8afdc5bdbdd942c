"""Vectors of unit length, and how close each is to its nearest among others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096


def unit(points_ND: NDArray[Any]) -> NDArray[Any]:
    """Each row at length 1; a row of zeros stays."""
    norms = np.linalg.norm(points_ND, axis=1, keepdims=True)
    scaled: NDArray[Any] = points_ND / np.where(norms > 0, norms, 1)
    return scaled


def nearest_cosine(points_ND: NDArray[np.float32], others_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each of N unit vectors the greatest cosine to any of M unit vectors [N]."""
    parts = [
        (points_ND[start : start + ROWS_AT_ONCE] @ others_MD.T).max(axis=1)
        for start in range(0, len(points_ND), ROWS_AT_ONCE)
    ]
    found: NDArray[np.float32] = np.concatenate(parts)
    return found
