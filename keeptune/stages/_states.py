"""What a probe of the states still answers, against what the output does: was it lost, or is it no longer put out?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.core.score import Score
from keeptune.stages._pairing import ScorePair
from keeptune.statistics.admission import SIGNIFICANCE, admit
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.noninferiority import PairedTask, compare_pooled
from keeptune.statistics.power import items_above_chance


@dataclass(frozen=True)
class States:
    """Questions that a linear probe of the states answers.

    Attributes:
        held: base against adapted; None where the base's states tell nothing.
        gap: (known - held) of base against adapted: positive where the output lost more than the states.
        left_out: tasks whose right options the base's states do not tell better than guessing: `name`, `n`, `base`,
            `chance` and `items_needed`, with which a probe that is right so often would be told from guessing.
    """

    held: Comparison | None
    gap: Comparison | None
    left_out: list[dict[str, Any]]

    @classmethod
    def of(cls, base: Sequence[Score], adapted: Sequence[Score], margins: Mapping[str, Any]) -> States:
        """From the scores of both models; tasks whose states guess say nothing."""
        asked = [score for score in base if score.metric == "represented"]
        able = [score for score in asked if _told(score)]
        pairs = [common(score, adapted) for score in able]
        tasks = [pair.as_task() for pair in pairs if pair is not None]
        return cls(
            compare_pooled(tasks, margins["pooled"]) if tasks else None,
            more_lost([(likely(base, score.task), score) for score in able], adapted),
            [_left_out(score) for score in asked if not _told(score)],
        )


def _told(score: Score) -> bool:
    return admit([item.score for item in score.items], score.chance or 0.0, 0.0).admitted


def _left_out(score: Score) -> dict[str, Any]:
    chance = score.chance or 0.0
    needed = items_above_chance(score.value, chance, SIGNIFICANCE)
    return {"name": score.task, "n": score.n, "base": score.value, "chance": chance, "items_needed": needed}


def likely(base: Sequence[Score], task: str) -> Score:
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
