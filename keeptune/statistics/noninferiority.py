"""Non-inferiority of the adapted model: is the loss smaller than a margin that was fixed before training?

One function per kind of score; each returns a `Comparison`, whose module states the rule. Items are paired throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from keeptune.statistics.bootstrap import RESAMPLES, bootstrap_bounds
from keeptune.statistics.clusters import cluster_sums
from keeptune.statistics.combined_score import combine_tasks
from keeptune.statistics.comparison import FEWEST_CLUSTERS, LEVEL, Comparison, Verdict, conclude, decide
from keeptune.statistics.pairs import paired

__all__ = [
    "FEWEST_CLUSTERS",
    "LEVEL",
    "Comparison",
    "PairedTask",
    "Verdict",
    "compare_binary",
    "compare_continuous",
    "compare_pooled",
    "compare_ratio",
    "decide",
]


@dataclass(frozen=True)
class PairedTask:
    """Item scores of one task of a pool; higher is better.

    Attributes:
        base: one score per item.
        adapted: the same items in the same order.
        clusters: a label per item, or None when items are independent.
    """

    base: ArrayLike
    adapted: ArrayLike
    clusters: ArrayLike | None = None


def compare_binary(
    base: ArrayLike,
    adapted: ArrayLike,
    margin: float,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    *,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """Right-or-wrong items: Tango's paired score interval; the wider of it and the bootstrap when items have clusters.

    Without a flip the interval still reaches about 3.6 / n to each side: identical answers to n items bound how often
    others would flip, they do not exclude it. (That two *models* are the same is another proof: see
    `verdict.retention_verdict`.)

    Args:
        base: 0 or 1 per item.
        adapted: the same items in the same order.
        margin: largest accepted change for the worse, a fraction.
        clusters: a label per item, or None when items are independent.
        seed: of the bootstrap.
        higher_is_better: False for a rate that should stay low, such as the format leak.
        resamples: bootstrap replicates, used with clusters only.
        level: two-sided, of the interval.

    Raises:
        ValueError: unequal lengths, no items, or a score that is neither 0 nor 1.
    """
    pairs = paired(base, adapted, clusters)
    if not pairs.binary:
        raise ValueError("a binary comparison needs scores that are 0 or 1; use compare_continuous")
    low, high = pairs.own_interval(level)
    effective, method = None, "paired score interval"
    if pairs.clusters is not None:
        bounds = bootstrap_bounds([pairs.sums()], level=level, resamples=resamples, seed=seed)
        low, high = min(low, float(bounds.low[0])), max(high, float(bounds.high[0]))
        effective, method = (
            float(bounds.effective_clusters[0]),
            "wider of paired score interval and clustered bootstrap",
        )
    return conclude(
        pairs.means,
        pairs.delta,
        (low, high),
        margin,
        n=pairs.n,
        effective_clusters=effective,
        unchanged=pairs.unchanged,
        level=level,
        method=method,
        flips=pairs.flips,
        higher_is_better=higher_is_better,
    )


def compare_continuous(
    base: ArrayLike,
    adapted: ArrayLike,
    clusters: ArrayLike | None,
    margin: float,
    seed: int = 0,
    *,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """Mean of a continuous item score (ROUGE, F1, log-probability of the gold answer): clustered paired bootstrap.

    Scores that are all 0 or 1 are handed to `compare_binary`: a bootstrap of items of which none flipped would claim
    certainty. Fewer than 30 effective clusters leave the verdict UNDECIDED, unless every item is bitwise unchanged.

    Args:
        base: one score per item.
        adapted: the same items in the same order.
        clusters: a label per item, or None when items are independent.
        margin: largest accepted change for the worse, in the score's unit.
        seed: of the bootstrap.
        higher_is_better: direction of the score.
        resamples: bootstrap replicates.
        level: two-sided, of the interval.

    Raises:
        ValueError: unequal lengths, no items, or a score that is not finite.
    """
    pairs = paired(base, adapted, clusters)
    if pairs.binary:
        return compare_binary(
            base, adapted, margin, clusters, seed, higher_is_better=higher_is_better, resamples=resamples, level=level
        )
    bounds = bootstrap_bounds([pairs.sums()], level=level, resamples=resamples, seed=seed)
    return conclude(
        pairs.means,
        pairs.delta,
        (float(bounds.low[0]), float(bounds.high[0])),
        margin,
        n=pairs.n,
        effective_clusters=float(bounds.effective_clusters[0]),
        unchanged=pairs.unchanged,
        level=level,
        method="clustered bootstrap",
        higher_is_better=higher_is_better,
    )


def compare_ratio(
    base_num: ArrayLike,
    adapted_num: ArrayLike,
    denominators: ArrayLike,
    clusters: ArrayLike | None,
    margin: float,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """Bits per byte: relative change of sum(bits) / sum(bytes); lower is better.

        delta = sum(adapted bits) / sum(base bits) - 1

    The bytes cancel, because both models read the same documents; they give the two scores their unit.

    Args:
        base_num: bits per document (or per window of one), positive.
        adapted_num: bits of the adapted model on the same rows.
        denominators: bytes per row, positive.
        clusters: document of each row when a document has several rows, or None.
        margin: largest accepted relative rise, such as 0.01.
        seed: of the bootstrap.
        resamples: bootstrap replicates.
        level: two-sided, of the interval.

    Raises:
        ValueError: unequal lengths, no rows, or a base or denominator that is not positive.
    """
    pairs, size = paired(base_num, adapted_num, clusters), np.asarray(denominators, dtype=np.float64)
    if size.shape != pairs.base.shape or not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError("every row needs a positive number of bytes")
    sums = cluster_sums(pairs.adapted - pairs.base, pairs.base, pairs.clusters)
    bounds = bootstrap_bounds([sums], level=level, resamples=resamples, seed=seed)
    return conclude(
        (float(pairs.base.sum() / size.sum()), float(pairs.adapted.sum() / size.sum())),
        float(bounds.estimate[0]),
        (float(bounds.low[0]), float(bounds.high[0])),
        margin,
        n=pairs.n,
        effective_clusters=float(bounds.effective_clusters[0]),
        unchanged=pairs.unchanged,
        level=level,
        method="clustered bootstrap of a ratio",
        higher_is_better=False,
    )


def compare_pooled(
    tasks: Sequence[PairedTask],
    margin: float,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """Equal-weight mean of several tasks' scores: bootstrap within each task, guarded where it is blind.

    A bootstrap cannot see a flip that did not happen, so the ends are the wider of it and of the tasks' own intervals
    put together (`combined_score`).

    Args:
        tasks: item scores of each task, higher is better.
        margin: largest accepted loss of the mean.
        seed: of the bootstrap.
        resamples: bootstrap replicates.
        level: two-sided, of the interval.

    Raises:
        ValueError: no tasks, or a task whose scores do not pair.
    """
    if not tasks:
        raise ValueError("a pooled comparison needs at least one task")
    parts = [paired(task.base, task.adapted, task.clusters) for task in tasks]
    bounds = bootstrap_bounds([part.sums() for part in parts], level=level, resamples=resamples, seed=seed)
    deltas, own = [np.float64(part.delta) for part in parts], [part.own_interval(level) for part in parts]
    low, high = combine_tasks(deltas, [np.float64(end[0]) for end in own], [np.float64(end[1]) for end in own])
    binary = all(part.binary for part in parts)
    independent = binary and all(part.clusters is None for part in parts)
    return conclude(
        (float(np.mean([part.means[0] for part in parts])), float(np.mean([part.means[1] for part in parts]))),
        float(np.mean(deltas)),
        (min(float(bounds.low[0]), float(low)), max(float(bounds.high[0]), float(high))),
        margin,
        n=sum(part.n for part in parts),
        effective_clusters=None if independent else float(bounds.effective_clusters[0]),
        unchanged=all(part.unchanged for part in parts),
        level=level,
        method="wider of stratified clustered bootstrap and combined score intervals",
        flips=(sum(part.flips[0] for part in parts), sum(part.flips[1] for part in parts)) if binary else None,
    )
