"""From the scores of a grid's arms to its frontiers: items of every cell and seed beside those of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keeptune.core.score import Score
from keeptune.statistics.frontiers import Grid, Part


def grid_of(
    methods: Mapping[str, Sequence[int]], base: Sequence[Score], found: Sequence[Sequence[list[Score]]]
) -> Grid:
    """The grid of what was measured.

    Args:
        methods: name and the places of its cells in `found`.
        base: the base's scores.
        found: of each cell, of each seed, the scores.
    """

    def part(score: Score) -> Part:
        own = [[_same(score, seed) for seed in seeds] for seeds in found]
        sign = 1.0 if score.higher_is_better or score.kind in ("leak", "target") else -1.0
        names = [item.cluster or item.id for item in score.items]
        return Part(
            sign * np.array([[[item.score for item in one.items] for one in seeds] for seeds in own]),
            sign * np.array([item.score for item in score.items]),
            np.unique(names, return_inverse=True)[1].astype(np.int64),
        )

    target = target_of(base)
    leaks = [score for score in base if score.kind == "leak"]
    general = [part(score) for score in base if score.kind == "accuracy"]
    return Grid(methods, part(target), general, part(leaks[0]) if leaks else None, loss=not target.higher_is_better)


def named(target: Score) -> str:
    """What the target's figures are called."""
    if target.higher_is_better:
        return target.metric
    return f"the base's {target.metric.replace('_', ' ')} that are saved"


def target_of(scores: Sequence[Score]) -> Score:
    """The score of the target's test rows."""
    return next(score for score in scores if score.kind == "target" and not score.task.endswith("/ood"))


def _same(score: Score, among: Sequence[Score]) -> Score:
    """The score of the same task; both were measured on the same items in the same order."""
    other = next(one for one in among if (one.task, one.kind, one.metric) == (score.task, score.kind, score.metric))
    assert [item.id for item in other.items] == [item.id for item in score.items], "the arms share their items"
    return other


def means(scores: Sequence[Score]) -> dict[str, float | None]:
    """The mean of each kind of score; None where nothing of it was measured."""
    named = {"general": "accuracy", "leak": "leak", "bits_per_byte": "corpus"}
    values = {key: [score.value for score in scores if score.kind == kind] for key, kind in named.items()}
    return {key: float(np.mean(found)) if found else None for key, found in values.items()}


def others(base: Sequence[Score], seeds: Sequence[Sequence[Score]]) -> dict[str, float | None]:
    """Mean over seeds of what the figures leave out: accuracy, leak, and bits per byte relative to the base."""
    each, start = [means(scores) for scores in seeds], means(base)

    def mean(key: str) -> float | None:
        values = [one[key] for one in each]
        return None if None in values else float(np.mean([value for value in values if value is not None]))

    bits, first = mean("bits_per_byte"), start["bits_per_byte"]
    rise = None if bits is None or not first else bits / first - 1
    return {"general": mean("general"), "leak": mean("leak"), "bits_rise": rise}


def value_of(scores: Sequence[Score], metric: str, task: str) -> float:
    """One value; not a number where it was not measured."""
    return next((s.value for s in scores if s.metric == metric and s.task == task), float("nan"))
