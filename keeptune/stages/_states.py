"""What a probe of the states still answers, against what the output does: was it lost, or is it no longer put out?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.core.score import Score
from keeptune.stages._pairing import common, likely, more_lost
from keeptune.statistics.admission import SIGNIFICANCE, admit
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.noninferiority import compare_pooled
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
