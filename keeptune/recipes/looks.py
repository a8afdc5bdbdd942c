"""Sequential sampling (`proof: {sequential: true}`, `prove --sequential`): the adapted model is asked in parts.

The base is measured on everything, so that admission rests on all of it. After every part the whole verdict is taken at
the level of that look (`statistics.sequential`), and a PASS or a FAIL ends it. Every part of the verdict spends its own
5%, and all must pass at one look, so a PASS of the whole is wrong with at most 5%, as with one look. Only retention is
asked in parts; the target, the format leak and the drift are measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Score
from keeptune.data.suite import Suite, stable_id
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._summary import summarise
from keeptune.evaluations.retention import Retention
from keeptune.recipes.measuring import measure
from keeptune.stages._progress import Progress
from keeptune.stages.prove import Margins, certify
from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.sequential import SHARES, levels

if TYPE_CHECKING:
    from keeptune.core.signals import StopRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Looked:
    """What the looks ended with.

    Attributes:
        base: scores of the base on the items that the adapted model was asked.
        adapted: of the adapted model.
        level: two-sided, of the last look's intervals.
        told: the certificate's `sequential`.
    """

    base: list[Score]
    adapted: list[Score]
    level: float
    told: dict[str, Any] | None

    @classmethod
    def all_at_once(cls, base: list[Score], adapted: list[Score]) -> Looked:
        """One look at everything, at the ordinary level."""
        return cls(base, adapted, LEVEL, None)


def adapted_in_parts(
    before: Sequence[Score],
    chosen: Sequence[Evaluation],
    adapted: Checkpoint,
    context: Context,
    margins: Margins,
    progress: Progress,
    stop: StopRequest | None = None,
) -> Looked:
    """`look_by_look` with a model: retention in parts, everything else of `chosen` once.

    An encoder has no retention in parts (fewer documents would be fewer candidates), and is asked at once.
    """
    assert context.suite is not None, "a proof has a suite"
    if not any(isinstance(one, Retention) for one in chosen):
        return Looked.all_at_once(list(before), measure("adapted", chosen, adapted, context, progress, stop))
    once = [one for one in chosen if not isinstance(one, Retention)]
    others = measure("adapted", once, adapted, context, progress, stop) if once else []

    def ask(part: Suite) -> list[Score]:
        return measure("adapted, a part", [Retention()], adapted, replace(context, suite=part), progress, stop)

    def verdict(base: Sequence[Score], after: Sequence[Score], level: float) -> str:
        return str(certify(base, after, margins=margins, level=level, whole=before)["verdict"])

    return look_by_look(before, others, context.suite, ask, verdict)


def look_by_look(
    before: Sequence[Score],
    others: Sequence[Score],
    suite: Suite,
    ask: Callable[[Suite], Sequence[Score]],
    verdict: Callable[[Sequence[Score], Sequence[Score], float], str],
) -> Looked:
    """Asks part after part until the verdict stands.

    Args:
        before: scores of the base on everything.
        others: scores of the adapted model that are not asked in parts.
        suite: the whole.
        ask: retention of the adapted model on a part of the suite.
        verdict: of (base, adapted) at a level.
    """
    seen: list[Score] = []
    for look, (part, level) in enumerate(zip(suite_parts(suite), levels(), strict=True), start=1):
        seen = joined(seen, ask(part))
        adapted = [*seen, *others]
        base = [_cut(score, adapted) for score in before]
        found = verdict(base, adapted, level)
        if found != "UNDECIDED" or look == len(SHARES):
            told = {"looks": len(SHARES), "look": look, "share": SHARES[look - 1], "level": level}
            return Looked(base, adapted, level, told)
    raise AssertionError("the last look returns")


def suite_parts(suite: Suite, shares: Sequence[float] = SHARES) -> Iterator[Suite]:
    """The suite in parts of so many items each, in an order that hangs on the names of the items alone.

    Items of one cluster stay together, so that the clusters of two looks are independent.
    """
    start = 0.0
    for end in shares:
        tasks = [replace(one, items=_between(one.items, start, end, one.name)) for one in suite.tasks]
        asked = [replace(one, items=_between(one.items, start, end, one.name)) for one in suite.generations]
        read = [replace(one, documents=_between(one.documents, start, end, one.name)) for one in suite.corpora]
        yield replace(
            suite,
            tasks=tuple(one for one in tasks if one.items),
            generations=tuple(one for one in asked if one.items),
            corpora=tuple(one for one in read if one.documents),
            harness=(),
            instructions=(),
        )
        start = end


def joined(seen: Sequence[Score], more: Sequence[Score]) -> list[Score]:
    """Scores of two parts as scores of both."""
    found = {(score.kind, score.task, score.metric): score for score in seen}
    for score in more:
        key = (score.kind, score.task, score.metric)
        old = found.get(key)
        found[key] = score if old is None else _of(score, (*old.items, *score.items))
    return list(found.values())


def _between(items: tuple[T, ...], start: float, end: float, name: str) -> tuple[T, ...]:
    clusters: dict[str, list[T]] = {}
    for item in items:
        clusters.setdefault(getattr(item, "cluster", "") or item.id, []).append(item)  # type: ignore[attr-defined]
    order = sorted(clusters, key=lambda cluster: stable_id("look", name, cluster))
    chosen, place = [], 0
    for cluster in order:
        # A cluster belongs to the part in which its first item lies.
        if round(start * len(items)) <= place < round(end * len(items)):
            chosen += clusters[cluster]
        place += len(clusters[cluster])
    return tuple(chosen)


def _cut(score: Score, adapted: Sequence[Score]) -> Score:
    """The base's score on the items that the adapted model was asked; whole where it was not asked at all."""
    key = (score.kind, score.task, score.metric)
    other = next((one for one in adapted if (one.kind, one.task, one.metric) == key), None)
    if other is None or len(other.items) == len(score.items):
        return score
    asked = {item.id for item in other.items}
    return _of(score, tuple(item for item in score.items if item.id in asked))


def _of(score: Score, items: tuple[Any, ...]) -> Score:
    return summarise(
        score.task, score.kind, score.metric, items, higher_is_better=score.higher_is_better, chance=score.chance
    )
