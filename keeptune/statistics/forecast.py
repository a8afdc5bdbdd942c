"""Will an unharmed model get its PASS, and a harmed one its FAIL? The odds of a whole suite, from n and discordance.

A right-or-wrong task: exact, over every table of flips (`verdict_odds`). The mean over T tasks: its interval is taken
where the expected table puts it (`combine_tasks`), and the mean itself is normal around the true change,

    P(PASS) = Phi((margin + low) / s)     P(FAIL) = Phi((-margin - high) / s)     s = sqrt(sum_t (d_t - D^2) / n_t) / T

with low and high the ends for d_t n_t flips, D the true loss of every task. Tasks are independent, so that the odds
that all pass are the product of theirs. `python -m benchmarks.forecast` holds all of it against simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from keeptune.statistics.combined_score import combine_tasks
from keeptune.statistics.paired_score import score_interval
from keeptune.statistics.power import items_needed, pooled_standard_error
from keeptune.statistics.verdict_odds import VerdictOdds, verdict_odds

HARMED = 2.0
"""Margins that the harmed model of a forecast has lost."""
FINEST = 1e-4
"""Of a margin that is searched for."""
Margins = Mapping[str, Any]
Sizes = Mapping[str, tuple[int, float]]


def task_margin(margins: Margins, name: str) -> float:
    """The margin of one task: its own, where `tasks` has one, else that of every task."""
    own: Mapping[str, float] = margins.get("tasks") or {}
    return own.get(name, margins["task"])


def suite_odds(tasks: Sizes, margins: Margins) -> dict[str, Any]:
    """Odds of the verdicts on accuracy.

    Args:
        tasks: (items, share of them that flips) by name; at least one.
        margins: `pooled`, `task`, and `tasks` by name where they differ; fractions.

    Returns:
        `pooled_pass`, `every_task_passes` and `tasks` (PASS by name) at no loss; `harmed`: `margins`, the loss in
        margins, and at that loss `pooled_fail`, `some_task_fails` and `tasks` (FAIL by name).
    """
    own = {name: task_margin(margins, name) for name in tasks}
    kept = {name: _odds(size, own[name], 0.0).pass_ for name, size in tasks.items()}
    lost = {name: _odds(size, own[name], HARMED).fail for name, size in tasks.items()}
    sizes, pooled = list(tasks.values()), margins["pooled"]
    return {
        "pooled_pass": pooled_odds(sizes, pooled).pass_,
        "every_task_passes": math.prod(kept.values()),
        "tasks": kept,
        "harmed": {
            "margins": HARMED,
            "pooled_fail": pooled_odds(sizes, pooled, HARMED * pooled).fail,
            "some_task_fails": 1 - math.prod(1 - fail for fail in lost.values()),
            "tasks": lost,
        },
    }


def pooled_odds(tasks: Sequence[tuple[int, float]], margin: float, drop: float = 0.0) -> VerdictOdds:
    """The verdict on the equal-weight mean of right-or-wrong tasks, each of which truly lost `drop`.

    Args:
        tasks: (items, discordance) of each; a discordance below the drop is raised to it.
        margin: of the mean.
        drop: true loss, a fraction.
    """
    if len(tasks) == 1:
        return verdict_odds(tasks[0][0], max(tasks[0][1], drop), drop, margin)
    flips = [(n, max(discordance, drop)) for n, discordance in tasks]
    ends = [
        score_interval(n, np.array([n * (d - drop) / 2]), np.array([n * (d + drop) / 2]))  # gains, losses expected
        for n, d in flips
    ]
    deltas = [np.array([-drop])] * len(tasks)
    low, high = (float(end[0]) for end in combine_tasks(deltas, [one[0] for one in ends], [one[1] for one in ends]))
    error = pooled_standard_error(flips, drop)
    if error == 0:
        passed, failed = float(low > -margin), float(high < -margin)
    else:
        passed, failed = (float(norm.cdf(side / error)) for side in (margin + low, -margin - high))
    return VerdictOdds(passed, failed, max(0.0, 1 - passed - failed))


def margin_carried(n: int, discordance: float, power: float) -> float:
    """The smallest margin with which an unharmed task of n items passes with probability `power`, to 0.01 points."""
    low, high = 0.0, 1.0
    while high - low > FINEST:
        middle = (low + high) / 2
        enough = verdict_odds(n, discordance, 0.0, middle).pass_ >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def items_for(tasks: int, margin: float, discordance: float, power: float) -> int:
    """Items of each of so many tasks, with which the mean of an unharmed model passes with probability `power`."""
    start = items_needed(margin, discordance, power=power)
    assert start is not None, "no loss is smaller than every margin"
    return _fewest(-(-start // tasks), lambda n: pooled_odds([(n, discordance)] * tasks, margin).pass_ >= power)


def _fewest(start: int, enough: Callable[[int], bool]) -> int:
    """The first number from `start` on that is enough, by halving."""
    step = 1
    while not enough(start + step):
        step *= 2
    low, high = start, start + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _odds(size: tuple[int, float], margin: float, lost: float) -> VerdictOdds:
    """Of a task that lost so many margins; as many items flip as that needs."""
    drop = min(1.0, lost * margin)
    return verdict_odds(size[0], max(size[1], drop), drop, margin)
