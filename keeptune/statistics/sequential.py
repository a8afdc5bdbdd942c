"""Sequential sampling: look at the items in parts, and stop when the verdict stands, without paying for it in error.

Looking K times at 5% errs in more than 5%. An alpha-spending function (Lan and DeMets 1983, Biometrika 70:659-663) says
how much of the error may be used up by the time a share t of the items was seen; theirs that resembles O'Brien and
Fleming (1979) spends next to nothing early:

    spent(t) = 2 (1 - Phi(z / sqrt(t))),  z = Phi^-1(1 - alpha / 2)         spent(1) = alpha

The critical value c_k of look k solves

    P(Z_1 < c_1, ..., Z_{k-1} < c_{k-1}, Z_k >= c_k) = spent(t_k) - spent(t_{k-1})

the statistics being a Brownian motion seen at the times t (Armitage, McPherson and Rowe 1969). A look is then an
ordinary interval at the level 2 Phi(c_k) - 1. PASS and FAIL are one-sided questions of their own, each at alpha.

Items must come in an order that has nothing to do with their answers, and the shares are fixed before the first look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from keeptune.statistics.comparison import LEVEL, Verdict, decide
from keeptune.statistics.paired_score import score_interval

Floats = NDArray[np.float64]
ALPHA = (1 - LEVEL) / 2
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
NODES = 400
FARTHEST = 8.0  # standard deviations


@dataclass(frozen=True)
class Stopped:
    """What a sequential comparison ended with.

    Attributes:
        verdict: of the last look; UNDECIDED only after all items.
        n: items seen.
        look: number of that look, from 1.
        low: low end of its interval, at the level of that look.
        high: high end.
        level: two-sided level of that look.
    """

    verdict: Verdict
    n: int
    look: int
    low: float
    high: float
    level: float


def spent(share: float, alpha: float = ALPHA) -> float:
    """The one-sided error that may be used up when this share of the items was seen."""
    if not 0 < share <= 1:
        raise ValueError(f"a share lies above 0 and at most at 1, not at {share}")
    return float(2 * norm.sf(norm.isf(alpha / 2) / np.sqrt(share)))


def critical_values(shares: Sequence[float] = SHARES, alpha: float = ALPHA) -> list[float]:
    """c_k of every look; see the module.

    Raises:
        ValueError: shares that do not rise, or that do not end at 1.

    >>> [round(c, 2) for c in critical_values((0.2, 0.4, 0.6, 0.8, 1.0), alpha=0.025)]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    if not shares or any(b <= a for a, b in pairwise((0.0, *shares))) or shares[-1] != 1:
        raise ValueError(f"shares rise and end at 1; got {list(shares)}")
    roots, weights = np.polynomial.legendre.leggauss(NODES)
    values = [float(norm.isf(spent(shares[0], alpha)))]
    place, mass = _first(shares[0], values[0], roots, weights)
    for before, now in pairwise(shares):
        step, extra = np.sqrt(now - before), spent(now, alpha) - spent(before, alpha)
        crossing = _crossing(place, mass, step, extra)
        values.append(float(brentq(crossing, -FARTHEST, FARTHEST)) / np.sqrt(now))
        bound = values[-1] * np.sqrt(now)
        onto, half = _nodes(-FARTHEST * np.sqrt(now), bound, roots)
        density = norm.pdf((onto[:, None] - place) / step) / step
        place, mass = onto, half * weights * (density @ mass)
    return values


def levels(shares: Sequence[float] = SHARES, alpha: float = ALPHA) -> list[float]:
    """The two-sided level of the interval at every look: 2 Phi(c_k) - 1."""
    return [float(2 * norm.cdf(value) - 1) for value in critical_values(shares, alpha)]


def decide_by_looks(
    measure: Callable[[int, int], Sequence[float]], n: int, margin: float, shares: Sequence[float] = SHARES
) -> Stopped:
    """Adds right-or-wrong items until PASS or FAIL stands, or all are used.

    Args:
        measure: (start, end) -> adapted minus base (-1, 0 or 1) of those items; called once for each part needed.
        n: items at hand.
        margin: largest accepted loss.
        shares: of the items, at every look.
    """
    change: list[float] = []
    for look, (share, level) in enumerate(zip(shares, levels(shares), strict=True), start=1):
        end = max(1, round(share * n))
        change += measure(len(change), end)
        gains, losses = change.count(1), change.count(-1)
        low, high = (float(one) for one in score_interval(end, gains, losses, level=level))
        verdict = decide(low, high, margin)
        if verdict != "UNDECIDED" or look == len(shares):
            return Stopped(verdict, end, look, low, high, level)
    raise AssertionError("the last look returns")


def _nodes(low: float, high: float, roots: Floats) -> tuple[Floats, float]:
    half = (high - low) / 2
    return low + half * (roots + 1), half


def _first(share: float, value: float, roots: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Places and mass of the first look's statistic, times sqrt(t), below its critical value."""
    root = np.sqrt(share)
    place, half = _nodes(-FARTHEST * root, min(value, FARTHEST) * root, roots)
    return place, half * weights * norm.pdf(place / root) / root


def _crossing(place: Floats, mass: Floats, step: float, extra: float) -> Callable[[float], float]:
    return lambda bound: float((norm.sf((bound - place) / step) * mass).sum()) - extra
