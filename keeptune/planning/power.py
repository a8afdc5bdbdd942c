"""What the proof will see: whether an unharmed model would get its PASS, from the numbers of items alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.statistics.forecast import items_for, margin_carried, suite_odds
from keeptune.statistics.power import ASSUMED_DISCORDANCE

WANTED = 0.8


def suite_power(items: Mapping[str, int], margins: Mapping[str, Any]) -> dict[str, Any] | None:
    """The odds of a PASS at a true loss of zero, when a share `ASSUMED_DISCORDANCE` of the items flips.

    Args:
        items: of each accuracy task, by name; all of them are taken to be admitted.
        margins: `pooled`, `task`, and `tasks` by name where they differ; fractions.

    Returns:
        What `suite_odds` gives; `margins_carried`: the smallest margin of each task with which all pass together with
        80%; how many items each task, and each task of the pool, would need for that; None without a task.
    """
    if not items:
        return None
    each = WANTED ** (1 / len(items))
    return {
        "assumed_discordance": ASSUMED_DISCORDANCE,
        **suite_odds({name: (n, ASSUMED_DISCORDANCE) for name, n in items.items()}, margins),
        "margins_carried": {name: margin_carried(n, ASSUMED_DISCORDANCE, each) for name, n in items.items()},
        "items_for_each_task": items_for(1, margins["task"], ASSUMED_DISCORDANCE, each),
        "items_for_the_pool": items_for(len(items), margins["pooled"], ASSUMED_DISCORDANCE, WANTED),
    }
