"""The base scored a second time with other batches: how much a score moves when nothing was trained."""

from __future__ import annotations

from dataclasses import replace

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.retention import Retention

SHARE, QUESTIONS, DOCUMENTS = 5, 100, 20
"""A fifth of each task and corpus is scored again, and at least so much: enough to see a floor."""


def rescore(base: Checkpoint, context: Context) -> list[Score]:
    """Retention of the base on a part of the suite, in batches of a quarter of the tokens, for `certify(rescored=)`.

    Nothing for an encoder, of texts or images: fewer documents would be fewer candidates, which is another question.
    """
    if context.suite is None or not context.subject(base).speaks:
        return []
    other = replace(context, suite=_part(context.suite), batch_tokens=max(1, context.batch_tokens // 4))
    return measure_once(Retention(), base, other)


def _part(suite: Suite) -> Suite:
    return replace(
        suite,
        tasks=tuple(
            replace(task, items=task.items[: max(QUESTIONS, len(task.items) // SHARE)]) for task in suite.tasks
        ),
        corpora=tuple(
            replace(corpus, documents=corpus.documents[: max(DOCUMENTS, len(corpus.documents) // SHARE)])
            for corpus in suite.corpora
        ),
        generations=(),
        instructions=(),
    )
