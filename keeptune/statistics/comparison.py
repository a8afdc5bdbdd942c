"""What a paired comparison says: scores, interval, flips, and the verdict against a margin fixed before training.

    PASS        the whole 90% interval lies above -margin   (one-sided 95% bound: the loss is smaller than the margin)
    FAIL        the whole interval lies below -margin   (the loss is larger than the margin)
    UNDECIDED   the interval contains -margin: more items are needed, which `power.items_to_decide` counts

For a lower-is-better score read +margin and the other end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["PASS", "FAIL", "UNDECIDED"]

LEVEL = 0.90
FEWEST_CLUSTERS = 30  # effective; with fewer no bootstrap of ours keeps its level under skew: benchmarks/calibration.py


@dataclass(frozen=True)
class Comparison:
    """One score before and after, with the interval of its change and what follows for the margin.

    Attributes:
        base: score of the base model.
        adapted: score of the adapted model.
        delta: adapted - base; for bits per byte the relative change adapted / base - 1.
        low: low end of the two-sided interval at `level`.
        high: its high end.
        level: two-sided confidence; each end is a one-sided bound at (1 + level) / 2.
        margin: largest loss that is accepted, in units of `delta`, not negative.
        higher_is_better: direction of the score.
        verdict: PASS, FAIL or UNDECIDED.
        n: items.
        effective_clusters: independent units that the interval rests on; n when the items are independent.
        flips_right_to_wrong: items lost; None unless items are right or wrong.
        flips_wrong_to_right: items gained; None unless items are right or wrong.
        discordance: share of items that flipped; None unless items are right or wrong.
        unchanged: every item scored bitwise the same.
        method: how the interval was made, for the page.
        note: why the verdict is UNDECIDED although the interval clears the margin; empty otherwise.
    """

    base: float
    adapted: float
    delta: float
    low: float
    high: float
    level: float
    margin: float
    higher_is_better: bool
    verdict: Verdict
    n: int
    effective_clusters: float
    flips_right_to_wrong: int | None
    flips_wrong_to_right: int | None
    discordance: float | None
    unchanged: bool
    method: str
    note: str = ""


def decide(low: float, high: float, margin: float, *, higher_is_better: bool = True) -> Verdict:
    """The rule of this module for one interval; an end exactly on the margin decides nothing.

    >>> decide(-0.008, 0.004, margin=0.01)
    'PASS'
    >>> decide(0.012, 0.020, margin=0.01, higher_is_better=False)
    'FAIL'
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"a margin is the largest accepted loss, at least 0; got {margin}")
    worst, best = (low, high) if higher_is_better else (-high, -low)
    if worst > -margin:
        return "PASS"
    return "FAIL" if best < -margin else "UNDECIDED"


def conclude(
    scores: tuple[float, float],
    delta: float,
    interval: tuple[float, float],
    margin: float,
    *,
    n: int,
    effective_clusters: float | None,
    unchanged: bool,
    method: str,
    flips: tuple[int, int] | None = None,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> Comparison:
    """Puts a comparison together and gives its verdict.

    Args:
        scores: (base, adapted).
        delta: their change.
        interval: (low, high) of the change.
        margin: largest accepted loss.
        n: items.
        effective_clusters: units behind a bootstrap, of which at least 30 are needed for a verdict; None for
            independent right-or-wrong items, whose score interval holds for any n.
        unchanged: every item bitwise the same; such a comparison needs no number of clusters.
        method: how the interval was made.
        flips: (gains, losses) of right-or-wrong items.
        higher_is_better: direction of the score.
        level: two-sided, of the interval.
    """
    verdict, note = decide(*interval, margin, higher_is_better=higher_is_better), ""
    too_few = effective_clusters is not None and effective_clusters < FEWEST_CLUSTERS and not unchanged
    if too_few and verdict != "UNDECIDED":
        verdict, note = "UNDECIDED", f"{effective_clusters:.0f} effective clusters; {FEWEST_CLUSTERS} are needed"
    gains, losses = flips or (None, None)
    return Comparison(
        base=scores[0],
        adapted=scores[1],
        delta=delta,
        low=interval[0],
        high=interval[1],
        level=level,
        margin=margin,
        higher_is_better=higher_is_better,
        verdict=verdict,
        n=n,
        effective_clusters=float(n if effective_clusters is None else effective_clusters),
        flips_right_to_wrong=losses,
        flips_wrong_to_right=gains,
        discordance=sum(flips) / n if flips else None,
        unchanged=unchanged,
        method=method,
        note=note,
    )
