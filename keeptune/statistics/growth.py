"""How a score grows with data: a logarithm or a saturating power law, chosen by held-out error.

    logarithm      s(n) = a + b log2(n)
    saturating     s(n) = c - a n^(-k),   a >= 0, 0 < k <= 2

The logarithm never ends; the power law does, at c. Which of them to believe is decided by leaving out each size in
turn and predicting it from the others. What twice the data would buy is s(2n) - s(n) at the largest n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RATES = np.geomspace(0.02, 2.0, 400)
LEAST_SIZES = 4
"""Fewer cannot tell the two forms apart: the power law has three parameters."""


@dataclass(frozen=True)
class Curve:
    """A fitted form.

    Attributes:
        form: `logarithm` or `saturating`.
        parameters: (a, b), or (c, a, k).
        held_out: root mean square error of the left-out sizes; None with fewer than four sizes.
    """

    form: str
    parameters: tuple[float, ...]
    held_out: float | None = None

    def at(self, sizes: ArrayLike) -> Floats:
        """The score at each size."""
        sizes_N = np.asarray(sizes, dtype=np.float64)
        if self.form == "logarithm":
            a, b = self.parameters
            return np.asarray(a + b * np.log2(sizes_N))
        c, a, k = self.parameters
        return np.asarray(c - a * sizes_N**-k)

    def twice(self, size: float) -> float:
        """What going from `size` to twice as much adds."""
        return float(np.diff(self.at([size, 2 * size]))[0])


def fit(form: str, sizes: ArrayLike, scores: ArrayLike) -> Curve:
    """Least squares; the rate of the power law is the best of a grid of 400 from 0.02 to 2.

    Args:
        form: `logarithm` or `saturating`.
        sizes: shape (N,), at least two different ones.
        scores: shape (N,); a size may come several times.
    """
    sizes_N, scores_N = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if form == "logarithm":
        b, a = np.polyfit(np.log2(sizes_N), scores_N, 1)
        return Curve(form, (float(a), float(b)))
    return _saturating(sizes_N, scores_N)


def choose(sizes: ArrayLike, scores: ArrayLike) -> list[Curve]:
    """Both forms with their held-out errors, the better one first; the logarithm alone below four sizes."""
    sizes_N, scores_N = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if len(np.unique(sizes_N)) < LEAST_SIZES:
        return [fit("logarithm", sizes_N, scores_N)]
    found = []
    for form in ("logarithm", "saturating"):
        errors = []
        for size in np.unique(sizes_N):
            kept = sizes_N != size
            predicted = fit(form, sizes_N[kept], scores_N[kept]).at(sizes_N[~kept])
            errors += list(predicted - scores_N[~kept])
        whole = fit(form, sizes_N, scores_N)
        found.append(Curve(form, whole.parameters, float(np.sqrt(np.mean(np.square(errors))))))
    return sorted(found, key=lambda curve: curve.held_out or 0.0)


def twice_the_data(form: str, sizes: Sequence[float], scores_BN: Floats, confidence: float = 0.90) -> dict[str, float]:
    """What twice the largest size would add, with the percentile interval over replicates of the scores.

    Args:
        form: that was chosen; it is the same in every replicate.
        sizes: shape (N,).
        scores_BN: replicates x sizes; row 0 is what was measured.
        confidence: of the interval.
    """
    gains = np.array([fit(form, sizes, row).twice(max(sizes)) for row in scores_BN])
    low, high = np.quantile(gains[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": float(gains[0]), "low": float(low), "high": float(high)}


def _saturating(sizes_N: Floats, scores_N: Floats) -> Curve:
    """The best of all rates; at each, c and a >= 0 have a closed form."""
    fallen_KN = sizes_N ** -RATES[:, None]
    means_K, scores = fallen_KN.mean(axis=1), scores_N - scores_N.mean()
    spread_KN = fallen_KN - means_K[:, None]
    a_K = np.maximum(0.0, -(spread_KN @ scores) / (spread_KN**2).sum(axis=1))
    errors_K = ((scores + a_K[:, None] * spread_KN) ** 2).sum(axis=1)
    best = int(errors_K.argmin())
    a = float(a_K[best])
    return Curve("saturating", (float(scores_N.mean() + a * means_K[best]), a, float(RATES[best])))
