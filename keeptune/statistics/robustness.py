"""Out of distribution at equal in-distribution score: who holds up better, and not only because it learned more.

A path is one method's checkpoints, in order of training, each scored on the same items of the task it was trained on
and on the same shifted ones, for several seeds. Two figures:

    gain at the common level = shifted(path at L) - shifted(reference at L),      L = min(max of each path)
    effective robustness     = shifted(checkpoint) - line(in distribution),       line(s) = sigmoid(a logit(s) + b)

The first reads both paths, linear between checkpoints, where they first reach the highest in-distribution score that
both reach. The second is Taori et al. (2020, arXiv:2007.00644): the line is fitted by least squares through the
reference's checkpoints, one point for each seed, on the logit scale, where such points lie on a line (Miller et al.
2021, arXiv:2107.04649). A count of right answers k of n enters as (k + 1/2) / (n + 1), so that 0 and n have a logit.

One replicate draws clusters of the task's items, clusters of the shifted items and seeds, each once for all paths:
everybody answered the same items, and a seed draws the same training rows for every method. Few seeds vary too little
when drawn with replacement; their weights are stretched from 1/S (`few_seeds`).

Shapes: K checkpoints, S seeds, N items of the task, M shifted items, B replicates; row 0 is what was measured.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from keeptune.statistics.clusters import cluster_weights
from keeptune.statistics.few_seeds import stretched
from keeptune.statistics.frontiers import Reading
from keeptune.statistics.interpolate import common_target, retention_at

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """What one method's checkpoints scored.

    Attributes:
        known_KSN: item scores from 0 to 1 on the task it was trained on.
        shifted_KSM: the same checkpoints on the shifted items.
    """

    known_KSN: Floats
    shifted_KSM: Floats


@dataclass
class Shift:
    """Several paths over the same items, and their replicates.

    Attributes:
        paths: by name.
        known_clusters, shifted_clusters: the number of each item's cluster; None: each item is its own.
        confidence: of the two-sided percentile intervals.
        resamples: replicates B.
        seed: of the draws.
    """

    paths: Mapping[str, Path]
    known_clusters: Sequence[int] | None = None
    shifted_clusters: Sequence[int] | None = None
    confidence: float = 0.90
    resamples: int = 2000
    seed: int = 0
    known: dict[str, Floats] = field(init=False)
    shifted: dict[str, Floats] = field(init=False)

    def __post_init__(self) -> None:
        """Scores of every checkpoint and seed in every replicate, (1 + B, K, S).

        Raises:
            ValueError: no path, paths of other items or seeds, or scores outside 0 to 1.
        """
        shapes = {(path.known_KSN.shape[1:], path.shifted_KSM.shape[1:]) for path in self.paths.values()}
        if len(shapes) != 1:
            raise ValueError(f"all paths have the same seeds and items; got {sorted(shapes)}")
        if not all(_scores(part) for path in self.paths.values() for part in (path.known_KSN, path.shifted_KSM)):
            raise ValueError("scores lie between 0 and 1")
        (((seeds, known), (_, shifted)),) = shapes
        generator = np.random.default_rng([self.seed, zlib.crc32(b"robustness")])
        known_BN = _item_weights(known, self.known_clusters, self.resamples, generator)
        shifted_BM = _item_weights(shifted, self.shifted_clusters, self.resamples, generator)
        self.weights_BS = _seed_weights(seeds, self.confidence, self.resamples, generator)
        self.known = {name: _means(path.known_KSN, known_BN) for name, path in self.paths.items()}
        self.shifted = {name: _means(path.shifted_KSM, shifted_BM) for name, path in self.paths.items()}

    def scores(self, name: str, place: int) -> tuple[Reading, Reading]:
        """One checkpoint's scores on the task and on the shifted items."""
        return (
            self._read(self._over_seeds(self.known[name])[:, place]),
            self._read(self._over_seeds(self.shifted[name])[:, place]),
        )

    def common(self, *names: str) -> float:
        """The highest score on the task that all these paths reach, as measured."""
        return common_target([self._over_seeds(self.known[name])[0].tolist() for name in names])

    def gain(self, name: str, reference: str) -> Reading:
        """What the method has more on the shifted items where both are equally good on the task.

        A replicate reads at its own common level, so that the interval holds what is not known about the level.
        """
        pairs = [(self._over_seeds(self.known[one]), self._over_seeds(self.shifted[one])) for one in (name, reference)]
        found = []
        for row in range(len(self.weights_BS)):
            paths = [(known_BK[row].tolist(), shifted_BK[row].tolist()) for known_BK, shifted_BK in pairs]
            level = common_target([known for known, _ in paths])
            own, other = (retention_at(known, shifted, level) for known, shifted in paths)
            assert own is not None, "a path reaches what all paths reach"
            assert other is not None, "a path reaches what all paths reach"
            found.append(own - other)
        return self._read(np.array(found))

    def effective(self, name: str, place: int, reference: str) -> Reading:
        """Effective robustness of one checkpoint: its shifted score less what the reference's line expects of it."""
        known_B = np.clip(self._over_seeds(self.known[name])[:, place], 0, 1)
        shifted_B = self._over_seeds(self.shifted[name])[:, place]
        slope_B, start_B = self.line(reference)
        sizes = self.paths[name].known_KSN.shape[2]
        return self._read(shifted_B - expit(slope_B * _logit(known_B, sizes) + start_B))

    def line(self, reference: str) -> tuple[Floats, Floats]:
        """Slope and start of the reference's line on the logit scale in every replicate, each (1 + B,).

        A replicate in which all points have the same score on the task has no line: not a number.
        """
        path = self.paths[reference]
        x = _logit(self.known[reference], path.known_KSN.shape[2])
        y = _logit(self.shifted[reference], path.shifted_KSM.shape[2])
        weights = np.broadcast_to(np.maximum(self.weights_BS, 0)[:, None, :], x.shape)
        total = weights.sum(axis=(1, 2), keepdims=True)
        middle_x, middle_y = ((weights * part).sum(axis=(1, 2), keepdims=True) / total for part in (x, y))
        spread = (weights * (x - middle_x) ** 2).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(spread > 0, (weights * (x - middle_x) * (y - middle_y)).sum(axis=(1, 2)) / spread, np.nan)
        return slope, middle_y[:, 0, 0] - slope * middle_x[:, 0, 0]

    def _over_seeds(self, scores_BKS: Floats) -> Floats:
        """(1 + B, K)."""
        return np.asarray(np.einsum("bks,bs->bk", scores_BKS, self.weights_BS))

    def _read(self, values_B: Floats) -> Reading:
        return Reading.of(values_B, self.confidence)


def _scores(values: Floats) -> bool:
    return bool(values.size) and bool(((values >= 0) & (values <= 1)).all())


def _means(items_KSN: Floats, weights_BN: Floats) -> Floats:
    return np.asarray(np.einsum("bn,ksn->bks", weights_BN, items_KSN, optimize=True))


def _logit(scores: Floats, items: int) -> Floats:
    return np.asarray(logit((scores * items + 0.5) / (items + 1)))


def _item_weights(items: int, clusters: Sequence[int] | None, resamples: int, generator: np.random.Generator) -> Floats:
    """(1 + B, N) that add up to 1: equal, then clusters drawn with replacement."""
    own = np.arange(items) if clusters is None else np.asarray(clusters)
    if len(own) != items:
        raise ValueError(f"{len(own)} clusters for {items} items")
    weights_BN = cluster_weights(own, resamples, generator)
    return np.asarray(weights_BN / weights_BN.sum(axis=1, keepdims=True))


def _seed_weights(seeds: int, confidence: float, resamples: int, generator: np.random.Generator) -> Floats:
    """(1 + B, S) that add up to 1: equal, then seeds drawn with replacement and stretched; see the module."""
    equal = np.full(seeds, 1 / seeds)
    if seeds == 1:
        return np.ones((resamples + 1, 1))
    drawn_BS = generator.multinomial(seeds, equal, size=resamples) / seeds
    return np.asarray(np.concatenate([equal[None], stretched(drawn_BS, confidence)]))
