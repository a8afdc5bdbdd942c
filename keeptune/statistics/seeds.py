"""Several training seeds: what the recipe does, not what one checkpoint did. Hierarchical bootstrap, seeds then items.

The statistic is the mean over S seeds of each seed's change. All seeds answer the same items, so a replicate draws
seeds with replacement, then clusters of items once for all seeds:

    r* - r = mean over drawn s of [ k (r_s - r) + (r_s* - r_s) ]        k = t(S - 1) / z sqrt(S / (S - 1))

Few seeds drawn with replacement vary too little, for which k makes up (`few_seeds`). The ends are the wider of the
replicates' quantiles and of two margins of error put together as Zou and Donner (2008) do:

    mean r_s -+ sqrt( (mean over s of seed s's own half-width)^2 + (t(S - 1) s / sqrt(S))^2 )

with s the standard deviation of the seeds' changes. The mean of the seeds' own half-widths keeps what each interval
knows about flips that did not happen, and takes the item errors of the seeds as one error, which is never too small.

Shapes: S seeds, U distinct clusters, B replicates.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from keeptune.statistics.bootstrap import RESAMPLES, replicate_deviations
from keeptune.statistics.clusters import Sums
from keeptune.statistics.comparison import LEVEL, Comparison, decide
from keeptune.statistics.few_seeds import expansion

Floats = NDArray[np.float64]
FEWEST_SEEDS = 3
METHOD = "hierarchical bootstrap over seeds and items"


def compare_over_seeds(
    parts: Sequence[Comparison], strata: Sequence[Sums], seed: int = 0, *, resamples: int = RESAMPLES
) -> Comparison:
    """One comparison for several seeds of a recipe, held against the margin that each of them had.

    Scores and change are the means over seeds. Flips belong to checkpoints, so they are None; the discordance is the
    mean. A seed without finite numbers fails the recipe; a seed with too few clusters leaves it undecided.

    Args:
        parts: the same comparison of each seed, at least three.
        strata: per task, the changes by cluster with one row per seed (`crossed_sums`).
        seed: of the generator named "seeds".
        resamples: replicates B.

    Raises:
        ValueError: fewer than three seeds, or strata with another number of rows.
    """
    if len(parts) < FEWEST_SEEDS or any(len(stratum.numerators) != len(parts) for stratum in strata):
        raise ValueError(f"a recipe needs {FEWEST_SEEDS} seeds, each with its changes; got {len(parts)}")
    broken = [part for part in parts if not np.isfinite([part.low, part.high]).all()]
    if broken:
        return broken[0]
    delta = float(np.mean([part.delta for part in parts]))
    low, high = seed_interval(
        [part.delta for part in parts],
        [part.low for part in parts],
        [part.high for part in parts],
        replicate_deviations(strata, resamples, seed),
        seed,
    )
    first = parts[0]
    note = next((part.note for part in parts if part.note), "")
    verdict = decide(low, high, first.margin, higher_is_better=first.higher_is_better)
    seen = [part.discordance for part in parts if part.discordance is not None]
    return replace(
        first,
        base=float(np.mean([part.base for part in parts])),
        adapted=float(np.mean([part.adapted for part in parts])),
        delta=delta,
        low=low,
        high=high,
        verdict="UNDECIDED" if note else verdict,
        effective_clusters=min(part.effective_clusters for part in parts),
        flips_right_to_wrong=None,
        flips_wrong_to_right=None,
        discordance=float(np.mean(seen)) if len(seen) == len(parts) else None,
        unchanged=all(part.unchanged for part in parts),
        method=METHOD,
        note=note,
    )


def seed_interval(
    deltas: ArrayLike, lows: ArrayLike, highs: ArrayLike, deviation_SB: Floats, seed: int = 0
) -> tuple[float, float]:
    """The two-sided 90% interval of the mean change over seeds; see the module.

    Args:
        deltas: change of each seed, shape (S,).
        lows: low end of each seed's own interval, (S,).
        highs: its high end, (S,).
        deviation_SB: r_s* - r_s of each seed under the same draws of clusters.
        seed: of the draws of seeds.
    """
    own, low, high = (np.asarray(values, dtype=np.float64) for values in (deltas, lows, highs))
    seeds, mean = len(own), float(own.mean())
    student = float(t.ppf((1 + LEVEL) / 2, seeds - 1))
    reach = student * float(own.std(ddof=1)) / np.sqrt(seeds)
    ends = (
        mean - np.hypot(float((own - low).mean()), reach),
        mean + np.hypot(float((high - own).mean()), reach),
    )
    generator = np.random.default_rng([seed, zlib.crc32(b"seeds")])
    drawn_BS = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=deviation_SB.shape[1]) / seeds
    replicates = drawn_BS @ (expansion(seeds, LEVEL) * (own - mean)) + (drawn_BS * deviation_SB.T).sum(axis=1)
    tail = (1 - LEVEL) / 2
    quantiles = mean + np.quantile(replicates, [tail, 1 - tail])
    return float(min(ends[0], quantiles[0])), float(max(ends[1], quantiles[1]))


def crossed_sums(changes: Sequence[tuple[ArrayLike, ArrayLike | None, Sequence[str]]]) -> Sums:
    """Cluster totals with one row per seed: (S, U) over the clusters that any seed has.

    Args:
        changes: per seed numerators, denominators (None: 1 each) and the cluster label of each item. A cluster that a
            seed did not measure weighs nothing in it.
    """
    labels = sorted({label for _, _, own in changes for label in own})
    place = {label: index for index, label in enumerate(labels)}
    tops, bottoms = np.zeros((2, len(changes), len(labels)))
    for row, (numerators, denominators, own) in enumerate(changes):
        at = [place[label] for label in own]
        np.add.at(tops[row], at, np.asarray(numerators, dtype=np.float64))
        np.add.at(bottoms[row], at, 1.0 if denominators is None else np.asarray(denominators, dtype=np.float64))
    distinct, multiplicity = np.unique(np.concatenate([tops, bottoms]), axis=1, return_counts=True)
    return Sums(distinct[: len(changes)], distinct[len(changes) :], multiplicity.astype(np.int64))
