"""What the proof could see: its power before training, and what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keeptune.stages._pairing import ScorePair
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.forecast import suite_odds
from keeptune.statistics.power import ASSUMED_DISCORDANCE, detected_drop, items_to_decide

if TYPE_CHECKING:
    from keeptune.stages._certificate import Retained


def forecast(admitted: Sequence[ScorePair], margins: Mapping[str, Any]) -> dict[str, Any] | None:
    """From the numbers of items alone: how likely an unharmed model gets its PASS, at an assumed discordance."""
    if not admitted:
        return None
    sizes = {pair.base.task: (pair.base.n, ASSUMED_DISCORDANCE) for pair in admitted}
    return {"assumed_discordance": ASSUMED_DISCORDANCE, **suite_odds(sizes, margins)}


def attained(retention: Retained, leak: Comparison | None, margins: Mapping[str, Any]) -> dict[str, Any] | None:
    """With the discordance that was seen: the same odds, the drop that would be found, the items still needed."""
    parts = {**retention.tasks, **retention.corpora, **({"format leak": leak} if leak else {})}
    if retention.pooled is not None:
        parts["pooled"] = retention.pooled
    if not parts:
        return None
    seen = {name: (part.n, part.discordance) for name, part in retention.tasks.items() if part.discordance is not None}
    pooled = retention.pooled
    odds = suite_odds(seen, margins) if seen else dict.fromkeys(("pooled_pass", "every_task_passes", "tasks", "harmed"))
    return {
        "pooled_half_width": None if pooled is None else (pooled.high - pooled.low) / 2,
        **odds,
        "detectable_drops": {name: detected_drop(part) for name, part in retention.tasks.items()},
        "items_to_decide": {name: items_to_decide(part) for name, part in parts.items() if part.verdict == "UNDECIDED"},
    }
