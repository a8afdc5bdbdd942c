"""What the proof could see: its power before training, and what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keeptune.stages._pairing import ScorePair
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.power import (
    ASSUMED_DISCORDANCE,
    all_pass_probability,
    detectable_drop,
    items_to_decide,
    pass_probability,
    pooled_standard_error,
)

if TYPE_CHECKING:
    from keeptune.stages._certificate import Retained


def forecast(admitted: Sequence[ScorePair], margins: Mapping[str, float]) -> dict[str, Any] | None:
    """From the numbers of items alone: how likely an unharmed model gets its PASS, at an assumed discordance."""
    if not admitted:
        return None
    tasks = [(pair.base.n, ASSUMED_DISCORDANCE) for pair in admitted]
    return {
        "assumed_discordance": ASSUMED_DISCORDANCE,
        "pooled_pass": pass_probability(pooled_standard_error(tasks), margins["pooled"]),
        "every_task_passes": all_pass_probability(tasks, margins["task"]),
    }


def attained(retention: Retained, leak: Comparison | None) -> dict[str, Any] | None:
    """With the discordance that was seen: the same odds, the drop that would be found, the items still needed."""
    parts = {**retention.tasks, **retention.corpora, **({"format leak": leak} if leak else {})}
    if retention.pooled is not None:
        parts["pooled"] = retention.pooled
    if not parts:
        return None
    seen = [(part.n, part.discordance) for part in retention.tasks.values() if part.discordance is not None]
    pooled = retention.pooled
    return {
        "pooled_half_width": None if pooled is None else (pooled.high - pooled.low) / 2,
        "pooled_pass": pass_probability(pooled_standard_error(seen), pooled.margin) if seen and pooled else None,
        "every_task_passes": all_pass_probability(seen, next(iter(retention.tasks.values())).margin) if seen else None,
        "detectable_drops": {
            name: detectable_drop(part.n, part.discordance)
            for name, part in retention.tasks.items()
            if part.discordance is not None
        },
        "items_to_decide": {name: items_to_decide(part) for name, part in parts.items() if part.verdict == "UNDECIDED"},
    }
