"""What the proof will see: whether an unharmed model would get its PASS, from the numbers of items alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keeptune.statistics.power import (
    ASSUMED_DISCORDANCE,
    detectable_drop,
    items_needed,
    pass_probability,
    pooled_standard_error,
    standard_error,
)

WANTED = 0.8


def suite_power(items: Mapping[str, int], margins: Mapping[str, Any]) -> dict[str, Any] | None:
    """The odds of a PASS at a true loss of zero, when a share `ASSUMED_DISCORDANCE` of the items flips.

    Args:
        items: of each accuracy task, by name; all of them are taken to be admitted.
        margins: `pooled`, `task`, and `tasks` by name where they differ; fractions.

    Returns:
        `pooled_pass`, `every_task_passes`, `tasks` by name, `margins_carried`: the smallest margin of each with which
        all pass together with 80%, and how many items each task would need; None without a task.
    """
    if not items:
        return None
    tasks = [(n, ASSUMED_DISCORDANCE) for n in items.values()]
    own = {name: margins.get("tasks", {}).get(name, margins["task"]) for name in items}
    odds = {name: pass_probability(standard_error(n, ASSUMED_DISCORDANCE), own[name]) for name, n in items.items()}
    return {
        "assumed_discordance": ASSUMED_DISCORDANCE,
        "pooled_pass": pass_probability(pooled_standard_error(tasks), margins["pooled"]),
        "every_task_passes": math.prod(odds.values()),
        "tasks": odds,
        "margins_carried": {
            name: detectable_drop(n, ASSUMED_DISCORDANCE, WANTED ** (1 / len(items))) for name, n in items.items()
        },
        "items_for_each_task": items_needed(margins["task"], ASSUMED_DISCORDANCE, power=WANTED ** (1 / len(items))),
        "items_for_the_pool": _pool_items(len(items), margins["pooled"]),
    }


def _pool_items(tasks: int, margin: float) -> int | None:
    """Items per task, so that the mean over so many tasks passes with probability `WANTED`."""
    needed = items_needed(margin, ASSUMED_DISCORDANCE, power=WANTED)
    return None if needed is None else -(-needed // tasks)
