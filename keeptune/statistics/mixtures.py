"""How a score depends on the shares of a mixture, and which mixture is best by that (RegMix, Liu et al. 2024).

The shares of a mixture sum to 1, so a polynomial in them needs no constant (Scheffe 1958):

    linear       s(w) = sum_i b_i w_i
    quadratic    s(w) = sum_i b_i w_i + sum_{i<j} b_ij w_i w_j

Which of them to believe is decided by leaving out each mixture in turn and predicting it from the others; for least
squares with the hat matrix H that error has a closed form, (s_n - s^_n) / (1 - H_nn). The proposal is the mean of the
hundred best of many drawn mixtures, as RegMix does, since the single best one would follow the noise.

Shapes: N mixtures, K sources, F terms of a form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
FORMS = ("linear", "quadratic")
CANDIDATES, BEST = 20_000, 100


@dataclass(frozen=True)
class Surface:
    """A fitted form.

    Attributes:
        form: `linear` or `quadratic`.
        coefficients: one for each term, shares first, then their products.
        held_out: root mean square error of the left-out mixtures; None where they are too few to tell.
        rank_correlation: Spearman's, of the left-out predictions with what was measured; None as above.
    """

    form: str
    coefficients: tuple[float, ...]
    held_out: float | None = None
    rank_correlation: float | None = None

    def at(self, shares_NK: ArrayLike) -> Floats:
        """The score of each mixture."""
        return np.asarray(terms(self.form, np.asarray(shares_NK, dtype=np.float64)) @ np.array(self.coefficients))


def terms(form: str, shares_NK: Floats) -> Floats:
    """The columns of a form, (N, F)."""
    if form == "linear":
        return shares_NK
    pairs = [shares_NK[:, i] * shares_NK[:, j] for i, j in combinations(range(shares_NK.shape[1]), 2)]
    return np.column_stack([shares_NK, *pairs])


def fit(form: str, shares_NK: ArrayLike, scores_N: ArrayLike) -> Surface:
    """Least squares; with fewer mixtures than terms, the smallest coefficients that fit, and no held-out error.

    Args:
        form: `linear` or `quadratic`.
        shares_NK: each row sums to 1.
        scores_N: what was measured of each mixture.
    """
    columns, scores = terms(form, np.asarray(shares_NK, dtype=np.float64)), np.asarray(scores_N, dtype=np.float64)
    inverse = np.linalg.pinv(columns)
    coefficients = inverse @ scores
    leverage = np.einsum("nf,fn->n", columns, inverse)
    if len(scores) <= columns.shape[1] or (leverage > 1 - 1e-9).any():
        return Surface(form, tuple(map(float, coefficients)))
    errors = (scores - columns @ coefficients) / (1 - leverage)
    return Surface(
        form,
        tuple(map(float, coefficients)),
        float(np.sqrt(np.mean(errors**2))),
        _rank_correlation(scores - errors, scores),
    )


def choose(shares_NK: ArrayLike, scores_N: ArrayLike) -> list[Surface]:
    """Both forms, the better one on left-out mixtures first; a form that cannot be judged comes last."""
    found = [fit(form, shares_NK, scores_N) for form in FORMS]
    return sorted(found, key=lambda one: float("inf") if one.held_out is None else one.held_out)


def constant_error(scores_N: ArrayLike) -> float | None:
    """The held-out error of the mean of the other mixtures: what a surface has to beat. None below two."""
    scores = np.asarray(scores_N, dtype=np.float64)
    count = len(scores)
    return None if count < 2 else float(np.sqrt(np.mean(((scores - scores.mean()) * count / (count - 1)) ** 2)))


def drawn(sources: int, count: int, seed: int, concentration: float = 1.0) -> Floats:
    """`count` mixtures from a Dirichlet distribution, (count, sources); concentration 1 is uniform on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.full(sources, concentration), size=count)


def propose(surfaces: Sequence[Surface], goal: Sequence[float], candidates_MK: Floats) -> Floats:
    """The mixture with the least predicted loss: the mean of the hundred best candidates, (K,).

    Args:
        surfaces: predicted loss of each part of the goal, lower is better.
        goal: weight of each part.
        candidates_MK: mixtures to choose from.
    """
    losses = sum(weight * surface.at(candidates_MK) for weight, surface in zip(goal, surfaces, strict=True))
    best = np.argsort(losses, kind="stable")[:BEST]
    return np.asarray(candidates_MK[best].mean(axis=0))


def _rank_correlation(first: Floats, second: Floats) -> float | None:
    ranks = rankdata(first), rankdata(second)
    return None if min(own.std() for own in ranks) == 0 else float(np.corrcoef(*ranks)[0, 1])
