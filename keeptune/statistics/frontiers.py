"""Target against retention over a grid of methods, learning rates and seeds, with paired bootstrap intervals.

    forgotten = max(base accuracy - accuracy, leak - base leak)       kept = 1 - forgotten

accuracy is the equal-weight mean of the tasks. One replicate draws clusters of items (the same ones for every cell and
the base, since all answered them) and seeds of each cell, whose weights are stretched from 1/S where they are few
(`few_seeds`); every figure below is read once on what was measured and once in each replicate, and its interval is the
percentile interval of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from keeptune.statistics.clusters import cluster_weights
from keeptune.statistics.few_seeds import stretched
from keeptune.statistics.interpolate import retention_at

Floats = NDArray[np.float64]
SMALLEST_ROOM = 1e-9


@dataclass(frozen=True)
class Part:
    """The item scores of one task in every cell and in the base.

    Attributes:
        cells_CSN: cells x seeds x items; a cell is one method at one rate.
        base_N: of the base.
        clusters_N: the number of each item's cluster.
    """

    cells_CSN: Floats
    base_N: Floats
    clusters_N: NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """A figure with the two-sided percentile interval of its replicates; None where it cannot be read."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values_B: Floats, confidence: float) -> Reading:
        """The measured value, which comes first, and the interval; none where fewer than half of the draws have one."""
        value, replicates = values_B[0], values_B[1:]
        sound = replicates[np.isfinite(replicates)]
        if not np.isfinite(value) or len(sound) < len(replicates) / 2:
            return cls(None if not np.isfinite(value) else float(value))
        low, high = np.quantile(sound, [(1 - confidence) / 2, (1 + confidence) / 2])
        return cls(float(value), float(low), float(high))

    def to_dict(self) -> dict[str, float | None]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass
class Grid:
    """What was measured, and its replicates.

    Attributes:
        methods: name and the places of its cells, in order of the rate.
        target: item scores of the target, from 0 to 1, higher is better; or its losses.
        general: of each task of general ability.
        leak: whether each request was answered in the training format; None where nothing can leak.
        loss: the target is a loss, and is read as the share of the base's that is saved: 1 - loss / the base's loss, in
            each replicate of the same items.
        confidence: of the intervals.
        resamples: replicates.
        seed: of the generator.
    """

    methods: Mapping[str, Sequence[int]]
    target: Part
    general: Sequence[Part]
    leak: Part | None
    loss: bool = False
    confidence: float = 0.90
    resamples: int = 1000
    seed: int = 0
    target_BC: Floats = field(init=False)
    forgotten_BC: Floats = field(init=False)
    start_B: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Row 0 of every array is what was measured; the others are replicates."""
        generator = np.random.default_rng(self.seed)
        cells, seeds, _ = self.target.cells_CSN.shape
        drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=(self.resamples, cells)) / seeds
        weights_BCS = np.concatenate([np.full((1, cells, seeds), 1 / seeds), stretched(drawn, self.confidence)])
        self.target_BC, self.start_B = self._means(self.target, weights_BCS, generator)
        if self.loss:
            self.target_BC = 1 - self.target_BC / self.start_B[:, None]
            self.start_B = np.zeros_like(self.start_B)
        lost = []
        if self.general:
            found = [self._means(part, weights_BCS, generator) for part in self.general]
            lost.append(np.mean([base[:, None] - own for own, base in found], axis=0))
        if self.leak is not None:
            own, base = self._means(self.leak, weights_BCS, generator)
            lost.append(own - base[:, None])
        if not lost:
            raise ValueError("nothing can be forgotten: there is neither a task of general ability nor a request")
        self.forgotten_BC = np.max(lost, axis=0)

    def _means(self, part: Part, weights_BCS: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """(replicates x cells, replicates) of the mean score of the cells and of the base."""
        weights_BN = cluster_weights(part.clusters_N, self.resamples, generator)
        weights_BN = weights_BN / weights_BN.sum(axis=1, keepdims=True)
        means_BCS = np.einsum("bn,csn->bcs", weights_BN, part.cells_CSN, optimize=True)
        own_BC = (means_BCS * weights_BCS).sum(axis=2)
        # Stretched weights may be negative; a mean lies among its items all the same.
        return np.clip(own_BC, part.cells_CSN.min(), part.cells_CSN.max()), weights_BN @ part.base_N

    def cell(self, place: int) -> dict[str, Reading]:
        """Target score and share forgotten of one cell."""
        return {"target": self._read(self.target_BC[:, place]), "forgotten": self._read(self.forgotten_BC[:, place])}

    def common_target(self) -> float:
        """The highest target score that every method reaches at some rate, as measured."""
        return float(min(max(self.target_BC[0, list(cells)]) for cells in self.methods.values()))

    def matched(self, method: str, level: float) -> Reading:
        """What the method has kept where its path over the rates first reaches `level`, linear between rates."""

        def kept(row: int, cells: Sequence[int]) -> float:
            targets = [self.start_B[row], *self.target_BC[row, cells]]
            return _number(retention_at(targets, [1.0, *(1 - self.forgotten_BC[row, cells])], level))

        return self._over(method, kept)

    def hypervolume(self, method: str) -> Reading:
        """Area of the plane (target gained, kept) that the method's cells dominate, over that of a perfect model.

        Where the base is perfect itself, in a replicate or as measured, there is nothing to gain and no area.
        """

        def area(row: int, cells: Sequence[int]) -> float:
            room = float(1 - self.start_B[row])
            if room < SMALLEST_ROOM:
                return float("nan")
            gains = self.target_BC[row, cells] - self.start_B[row]
            return dominated(gains, 1 - self.forgotten_BC[row, cells]) / room

        return self._over(method, area)

    def rank_correlation(self, predictor: Sequence[float]) -> Reading:
        """Spearman's rank correlation over cells of a predictor, as measured, with the share forgotten."""
        ranks = rankdata(predictor)
        found = np.array([_correlation(ranks, rankdata(row)) for row in self.forgotten_BC])
        return self._read(found)

    def _over(self, method: str, figure: Callable[[int, Sequence[int]], float]) -> Reading:
        cells = list(self.methods[method])
        return self._read(np.array([figure(row, cells) for row in range(len(self.start_B))]))

    def _read(self, values_B: Floats) -> Reading:
        return Reading.of(values_B, self.confidence)


def dominated(gains: Floats, kept: Floats) -> float:
    """Area of the union of the rectangles from (0, 0) to each (gain, kept); a loss counts as nothing.

    >>> dominated(np.array([0.5, 1.0]), np.array([1.0, 0.5]))
    0.75
    """
    area = floor = 0.0
    for gain, height in sorted(zip(np.maximum(gains, 0), np.clip(kept, 0, 1), strict=True), reverse=True):
        area += float(gain) * max(0.0, float(height) - floor)
        floor = max(floor, float(height))
    return area


def _correlation(first: Floats, second: Floats) -> float:
    if first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
