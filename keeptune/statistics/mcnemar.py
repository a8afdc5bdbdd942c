"""Mid-p McNemar test with Holm's adjustment: it says which task fell, never whether a margin holds.

A margin is a question about size; McNemar's test asks only whether losses and gains are equally likely. Under that
hypothesis losses ~ Binomial(gains + losses, 1/2). The mid-p version counts half of the observed outcome; it is less
conservative than the exact test and seldom above the level (Fagerland, Lydersen and Laake 2013,
BMC Med Res Methodol 13:91).
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binom


def mcnemar_loss(gains: int, losses: int) -> float:
    """One-sided mid-p that losses outnumber gains by chance: P(X > losses) + P(X = losses) / 2.

    >>> round(mcnemar_loss(gains=1, losses=7), 4)
    0.0195
    """
    flips = _flips(gains, losses)
    return float(binom.sf(losses, flips, 0.5) + binom.pmf(losses, flips, 0.5) / 2)


def mcnemar_change(gains: int, losses: int) -> float:
    """Two-sided mid-p that gains and losses differ by chance; 1 when they are equal.

    >>> round(mcnemar_change(gains=1, losses=7), 4)  # the airway example of Fagerland et al.: 0.039
    0.0391
    """
    smaller = min(mcnemar_loss(gains, losses), mcnemar_loss(losses, gains))
    return min(1.0, 2 * smaller)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (1979, Scand J Stat 6:65-70), in the given order.

    The k-th smallest of m is multiplied by m - k + 1, never below the one before it, at most 1. Rejecting those below
    alpha keeps the chance of any false rejection below alpha, whatever the dependence between tasks.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError("p-values lie between 0 and 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _flips(gains: int, losses: int) -> int:
    if gains < 0 or losses < 0:
        raise ValueError(f"flips are counts; got gains {gains}, losses {losses}")
    return gains + losses
