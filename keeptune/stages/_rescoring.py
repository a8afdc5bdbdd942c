"""The base scored a second time with other batches: how much a score moves when nothing was trained."""

from __future__ import annotations

from dataclasses import replace

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.retention import Retention

QUESTIONS, DOCUMENTS = 300, 40
"""How much of each task and corpus is scored again: enough to see a floor, a fifth of the cost."""


def rescore(base: Checkpoint, context: Context) -> list[Score]:
    """Retention of the base on a part of the suite, in batches of a quarter of the tokens, for `certify(rescored=)`.

    Nothing for an encoder: fewer documents would be fewer candidates, which is another question.
    """
    if context.suite is None or context.subject(base).kind == "encoder":
        return []
    other = replace(context, suite=_part(context.suite), batch_tokens=max(1, context.batch_tokens // 4))
    return measure_once(Retention(), base, other)


def _part(suite: Suite) -> Suite:
    return replace(
        suite,
        tasks=tuple(replace(task, items=task.items[:QUESTIONS]) for task in suite.tasks),
        corpora=tuple(replace(corpus, documents=corpus.documents[:DOCUMENTS]) for corpus in suite.corpora),
        generations=(),
        instructions=(),
    )
