"""From item records to a score with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keeptune.core.score import Item, Kind, Score


def summarise(
    task: str,
    kind: Kind,
    metric: str,
    items: Sequence[Item],
    *,
    higher_is_better: bool = True,
    chance: float | None = None,
) -> Score:
    """Total of the item scores over total of their sizes, with the clustered standard error of that ratio.

    Scores that are not finite (a model that gives no numbers) give a value that is not a number.
    """
    from keeptune.statistics.clusters import cluster_sums

    value = standard_error = math.nan
    if all(math.isfinite(item.score) for item in items):
        sums = cluster_sums(
            [item.score for item in items],
            [item.size for item in items],
            [item.cluster or item.id for item in items],
        )
        value, standard_error = float(sums.ratio()[0]), math.sqrt(float(sums.variance()[0]))
    return Score(
        task=task,
        kind=kind,
        metric=metric,
        value=value,
        higher_is_better=higher_is_better,
        n=len(items),
        standard_error=standard_error,
        chance=chance,
        items=tuple(items),
    )
