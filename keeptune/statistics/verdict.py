"""From single verdicts to the certificate's two: was the model kept, and was the target gained?

Retention is an intersection-union test: every part must pass at its own one-sided 95%, so no correction for several
parts is needed, and a PASS of the whole is wrong with at most 5%.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from keeptune.statistics.comparison import Comparison, Verdict

TargetVerdict = Literal["GAINED", "LOST", "UNDECIDED"]


def retention_verdict(
    pooled: Comparison | None,
    tasks: Iterable[Comparison],
    corpora: Iterable[Comparison],
    format_leak: Comparison | None,
    *,
    same_model: bool = False,
) -> Verdict:
    """PASS when the pooled accuracy, every admitted task, every corpus and the format leak pass; FAIL when any fails.

    Otherwise, or with no admitted task and no corpus, UNDECIDED: a format leak alone says nothing about ability.

    Args:
        pooled: equal-weight mean of the accuracy tasks; None when none was admitted.
        tasks: the admitted tasks.
        corpora: bits per byte on each corpus.
        format_leak: None when it was not measured.
        same_model: base and adapted are proven to be one model (equal weights and no active adapter). That is a proof,
            not a
            statistic: PASS whatever n is.
    """
    if same_model:
        return "PASS"
    evidence = [*tasks, *corpora]
    parts = [*evidence, *(part for part in (pooled, format_leak) if part is not None)]
    if any(part.verdict == "FAIL" for part in parts):
        return "FAIL"
    if evidence and all(part.verdict == "PASS" for part in parts):
        return "PASS"
    return "UNDECIDED"


def target_verdict(target: Comparison) -> TargetVerdict:
    """GAINED when the whole interval is an improvement, LOST when the whole interval is a loss, else UNDECIDED."""
    worst, best = (target.low, target.high) if target.higher_is_better else (-target.high, -target.low)
    if worst > 0:
        return "GAINED"
    return "LOST" if best < 0 else "UNDECIDED"
