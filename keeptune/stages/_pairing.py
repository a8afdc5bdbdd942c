"""Base and adapted scores side by side: the same items, joined by their ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.errors import RecipeError
from keeptune.core.score import Item, Score
from keeptune.statistics.comparison import LEVEL, Comparison
from keeptune.statistics.noninferiority import PairedTask, compare_continuous, compare_pooled, compare_ratio


@dataclass(frozen=True)
class ScorePair:
    """One score of the base and the same score of the adapted model, their items in one order."""

    base: Score
    adapted: Score

    @property
    def finite(self) -> bool:
        """Whether the adapted model gave numbers everywhere."""
        return all(math.isfinite(item.score) for item in self.adapted.items)

    @property
    def clusters(self) -> list[str]:
        """The cluster of each item; its id when it stands alone."""
        return [item.cluster or item.id for item in self.base.items]

    @property
    def identical(self) -> bool:
        """Every item has the same score, log-probability and answer, bit for bit."""
        return all(_seen(a) == _seen(b) for a, b in zip(self.base.items, self.adapted.items, strict=True))

    def as_task(self) -> PairedTask:
        """For the pooled comparison."""
        return PairedTask(_values(self.base), _values(self.adapted), self.clusters)

    def compare(self, margin: float, seed: int = 0, level: float = LEVEL) -> Comparison:
        """Held against a margin, by the interval that fits the kind of score.

        A model whose log-probabilities are not numbers has lost whatever was asked: FAIL, without an interval.
        """
        if not self.finite:
            return self._broken(margin, level)
        base, adapted = _values(self.base), _values(self.adapted)
        if self.base.metric == "bits_per_byte":
            sizes = [item.size for item in self.base.items]
            return compare_ratio(base, adapted, sizes, self.clusters, margin, seed, level=level)
        return compare_continuous(
            base, adapted, self.clusters, margin, seed, higher_is_better=self.base.higher_is_better, level=level
        )

    def _broken(self, margin: float, level: float) -> Comparison:
        nothing = math.nan
        return Comparison(
            base=self.base.value,
            adapted=nothing,
            delta=nothing,
            low=nothing,
            high=nothing,
            level=level,
            margin=margin,
            higher_is_better=self.base.higher_is_better,
            verdict="FAIL",
            n=self.base.n,
            effective_clusters=nothing,
            flips_right_to_wrong=None,
            flips_wrong_to_right=None,
            discordance=None,
            unchanged=False,
            method="none",
            note="the adapted model's log-probabilities are not finite numbers",
        )


def pair_up(base: Sequence[Score], adapted: Sequence[Score]) -> list[ScorePair]:
    """Joins two measurements, in the base's order. Scores that only one side has are left out (drift has no base).

    Raises:
        RecipeError: a score was measured on other items before than after (E-PROVE-ITEMS).
    """
    after = {(score.kind, score.task, score.metric): score for score in adapted}
    pairs = []
    for score in base:
        other = after.get((score.kind, score.task, score.metric))
        if other is not None:
            pairs.append(ScorePair(score, _in_order_of(score, other)))
    return pairs


def likely(base: Sequence[Score], task: str) -> Score:
    """The accuracy of a task by likelihood, which every task has."""
    return next(one for one in base if one.kind == "accuracy" and one.task == task)


def more_lost(pairs: Sequence[tuple[Score, Score]], adapted: Sequence[Score]) -> Comparison | None:
    """(first - second) of base against adapted, per item: positive where the first fell more than the second."""
    tasks = []
    for scores in pairs:
        shared = {item.id for item in scores[0].items} & {item.id for item in scores[1].items}
        first, second = (common(score, adapted, shared) for score in scores)
        if first is None or second is None:
            continue
        sides = []
        for shown, held in ((first.adapted, second.adapted), (first.base, second.base)):
            by_id = {item.id: item.score for item in held.items}
            sides.append([item.score - by_id[item.id] for item in shown.items])
        # Turned round, so that the gap is positive when the first fell more.
        tasks.append(PairedTask(sides[0], sides[1], first.clusters))
    return compare_pooled(tasks, 0.0) if tasks else None


def common(base: Score, others: Sequence[Score], only: set[str] | None = None) -> ScorePair | None:
    """The pair on the items that both sides have (and `only` holds); None when the other side has no such score."""
    other = next((o for o in others if (o.kind, o.task, o.metric) == (base.kind, base.task, base.metric)), None)
    if other is None:
        return None
    after = {item.id: item for item in other.items}
    shared = [item for item in base.items if item.id in after and (only is None or item.id in only)]
    if not shared:
        return None
    return ScorePair(
        Score(**{**vars(base), "items": tuple(shared), "n": len(shared)}),
        Score(**{**vars(other), "items": tuple(after[item.id] for item in shared), "n": len(shared)}),
    )


def _in_order_of(base: Score, adapted: Score) -> Score:
    known = {item.id: item for item in adapted.items}
    if len(base.items) != len(adapted.items) or known.keys() != {item.id for item in base.items}:
        raise RecipeError(
            f"'{base.task}' was measured on {counted(len(base.items), 'item')} before and on "
            f"{len(adapted.items)} after, and they are not the same.",
            code="E-PROVE-ITEMS",
            why="A proof compares the same items in pairs.",
            fix="Measure both again on the same data and suite.",
        )
    return Score(**{**vars(adapted), "items": tuple(known[item.id] for item in base.items)})


def _values(score: Score) -> list[float]:
    return [item.score for item in score.items]


def _seen(item: Item) -> tuple[Any, ...]:
    return item.id, item.score, item.gold_logprob, item.prediction
