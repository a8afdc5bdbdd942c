"""How much a paired proof can see, before any item is scored: half-width, detectable drop, items needed.

With discordance d (share of items that flip) and true drop D, the standard error of the paired difference is

    s = sqrt((d - D^2) / n)          one-sided 95%: z = 1.645          power 80%: z_p = 0.842

Not accuracy but d drives power; two independent samples of the same size would need 2 p (1 - p) in its place. Exact
probabilities of the verdicts for small n or few flips: `verdict_odds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import norm

from keeptune.statistics.comparison import LEVEL, Comparison

Z = float(norm.ppf((1 + LEVEL) / 2))
ASSUMED_DISCORDANCE = 0.10
"""Share of items that flip when a model is tuned gently: between the 5% and 15% of published comparisons."""


def standard_error(n: int, discordance: float, drop: float = 0.0) -> float:
    """sqrt((d - D^2) / n) of one task.

    Args:
        n: items.
        discordance: share of items that flip, in [|drop|, 1].
        drop: true loss, a fraction; negative for a gain.

    Raises:
        ValueError: no items, or a discordance that cannot hold the drop.
    """
    if n < 1 or not abs(drop) <= discordance <= 1:
        raise ValueError(f"need n >= 1 and |drop| <= discordance <= 1; got n {n}, d {discordance}, drop {drop}")
    return math.sqrt(max(discordance - drop**2, 0.0) / n)


def pooled_standard_error(tasks: Sequence[tuple[int, float]], drop: float = 0.0) -> float:
    """Standard error of the equal-weight mean over tasks (n, discordance) that all lost `drop`: sqrt(sum s_t^2) / T."""
    return math.sqrt(sum(standard_error(n, discordance, drop) ** 2 for n, discordance in tasks)) / len(tasks)


def half_width(n: int, discordance: float) -> float:
    """Distance from the estimate to its one-sided 95% bound.

    >>> round(100 * half_width(1319, 0.15), 1)  # points, GSM8K
    1.8
    """
    return Z * standard_error(n, discordance)


def unpaired_half_width(n: int, accuracy: float) -> float:
    """The same distance when the pairing is thrown away: z sqrt(2 p (1 - p) / n)."""
    return Z * math.sqrt(2 * accuracy * (1 - accuracy) / n)


def detectable_drop(n: int, discordance: float, power: float = 0.8) -> float:
    """The true drop that a one-sided 95% test against no drop finds with probability `power`."""
    return (Z + float(norm.ppf(power))) * standard_error(n, discordance)


def unpaired_detectable_drop(n: int, accuracy: float, power: float = 0.8) -> float:
    """The same drop when the pairing is thrown away."""
    return unpaired_half_width(n, accuracy) * (Z + float(norm.ppf(power))) / Z


def items_needed(margin: float, discordance: float, drop: float = 0.0, power: float = 0.8) -> int | None:
    """Items for a PASS with probability `power`: (z + z_p)^2 (d - D^2) / (margin - D)^2.

    Without the half-step of the shipped interval, which costs about a point of power.

    Returns:
        The number of items, or None when the true drop is not smaller than the margin: no n will do.

    >>> items_needed(0.02, 0.10)
    1546
    """
    if drop >= margin:
        return None
    variance = standard_error(1, discordance, drop) ** 2
    return max(1, math.ceil((Z + float(norm.ppf(power))) ** 2 * variance / (margin - drop) ** 2))


def items_to_decide(comparison: Comparison, power: float = 0.8) -> int | None:
    """Items that a comparison would need to be decided with probability `power`, if its delta is the true one.

    The standard error of one item is read back from the interval, times sqrt(n), so that clusters, pooling and ratios
    need no formula of their own: n stands for the same mix of items, more of each.

    Returns:
        At least the n at hand; None when delta lies on the margin itself.
    """
    distance = abs(comparison.margin + (comparison.delta if comparison.higher_is_better else -comparison.delta))
    if distance == 0:
        return None
    per_item = error_of(comparison) * math.sqrt(comparison.n)
    return max(comparison.n, math.ceil(((Z + float(norm.ppf(power))) * per_item / distance) ** 2))


def items_above_chance(score: float, chance: float, significance: float, power: float = 0.8) -> int | None:
    """Items on which answers that are right so often are told from guessing with probability `power`.

        n = ((z_a sqrt(c (1 - c)) + z_p sqrt(p (1 - p))) / (p - c))^2        one-sided, c the chance, p the score

    Returns:
        The number of items; None when the score is no better than guessing: no n will do.
    """
    if score <= chance:
        return None
    guess, own = math.sqrt(chance * (1 - chance)), math.sqrt(score * (1 - score))
    wanted = float(norm.isf(significance)) * guess + float(norm.ppf(power)) * own
    return math.ceil((wanted / (score - chance)) ** 2)


def detected_drop(comparison: Comparison, power: float = 0.8) -> float:
    """The true drop that items like these find with probability `power`, read back from their interval.

    Where nothing flipped the interval still has the width that so few items deserve, and so has this.
    """
    return (Z + float(norm.ppf(power))) * error_of(comparison)


def error_of(comparison: Comparison) -> float:
    """The standard error behind an interval: (high - low) / (2 z), z of the interval's own level."""
    return (comparison.high - comparison.low) / (2 * float(norm.ppf((1 + comparison.level) / 2)))
