"""Exact probabilities of PASS, FAIL and UNDECIDED for right-or-wrong items: every table of flips, weighed.

Gains and losses of n independent items are trinomial. The verdict depends on them alone, so its distribution is a sum
over all (gains, losses), not a simulation and not an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from scipy.stats import binom, norm

from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.paired_score import score_statistic

NEGLIGIBLE = 1e-12  # probability left out at each end of gains and of losses


@dataclass(frozen=True)
class VerdictOdds:
    """Probability of each verdict; they add up to 1 within 1e-11."""

    pass_: float
    fail: float
    undecided: float


def verdict_odds(n: int, discordance: float, drop: float, margin: float, *, continuity: bool = True) -> VerdictOdds:
    """The exact distribution of `compare_binary`'s verdict.

    PASS when low > -margin, which is when the statistic at -margin exceeds z; FAIL likewise at the other end.

    Args:
        n: independent items.
        discordance: probability that an item flips, at least |drop|.
        drop: true loss of accuracy (losses minus gains), a fraction.
        margin: largest accepted loss, positive.
        continuity: as in `score_interval`; what `compare_binary` uses is True.

    Raises:
        ValueError: no items, or a discordance that cannot hold the drop.
    """
    if n < 1 or not abs(drop) <= discordance <= 1:
        raise ValueError(f"need n >= 1 and |drop| <= discordance <= 1; got n {n}, d {discordance}, drop {drop}")
    gain, loss = (discordance - drop) / 2, (discordance + drop) / 2
    gains, losses = np.meshgrid(_support(n, gain), _support(n, loss), indexing="ij")
    possible = gains + losses <= n
    gains, losses = gains[possible], losses[possible]
    same = n - gains - losses
    weight = np.exp(
        gammaln(n + 1)
        - gammaln(gains + 1)
        - gammaln(losses + 1)
        - gammaln(same + 1)
        + xlogy(gains, gain)
        + xlogy(losses, loss)
        + xlogy(same, max(1 - gain - loss, 0.0))
    )
    z, step = norm.ppf((1 + LEVEL) / 2), 0.5 if continuity else 0.0
    passed = float(weight[score_statistic(n, gains, losses, -margin, half_step=-step) > z].sum())
    failed = float(weight[score_statistic(n, gains, losses, -margin, half_step=step) < -z].sum())
    return VerdictOdds(passed, failed, float(weight.sum()) - passed - failed)


def _support(n: int, probability: float) -> NDArray[np.float64]:
    """The counts that carry all but a negligible share of a binomial."""
    low, high = binom.ppf([NEGLIGIBLE, 1 - NEGLIGIBLE], n, probability)
    return np.arange(max(low, 0.0), high + 1, dtype=np.float64)
