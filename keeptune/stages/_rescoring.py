"""The base scored again while only the scoring changes: how much a score moves when nothing was trained.

batches      other batches, of a quarter of the tokens
dtype        weights in float32 instead of bfloat16, or the other way round
paraphrase   three other wordings of the chat questions
order        other examples, in another order, in the prompts of in-context learning
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.in_context import InContext
from keeptune.evaluations.retention import Retention

SHARE, QUESTIONS, DOCUMENTS = 5, 100, 20
"""A fifth of each task and corpus is scored again, and at least so much: enough to see a floor."""
WORDINGS = ("Question: {prompt}", "{prompt}\n\nGive the answer.", "Here is something to answer. {prompt}")
ORDERS = 3


def rescore(base: Checkpoint, context: Context, *, thorough: bool = False) -> dict[str, list[Score]]:
    """Retention of the base on a part of the suite, by what was changed, for `certify(rescored=)`.

    Nothing for an encoder, of texts or images: fewer documents would be fewer candidates, which is another question.

    Args:
        base: the model.
        context: of the proof.
        thorough: under every change, which takes as much again for each scoring and, for the other dtype, a second copy
            of the base in memory; else in other batches alone.
    """
    if context.suite is None or not context.subject(base).speaks:
        return {}
    narrow = replace(context, suite=_part(context.suite))
    kinds: dict[str, Callable[[], list[Score]]] = {"batches": lambda: _other_batches(base, narrow)}
    if thorough:
        kinds |= {
            "dtype": lambda: _other_dtype(base, narrow),
            "paraphrase": lambda: _other_wordings(base, narrow),
            "order": lambda: _other_orders(base, context),
        }
    found = {kind: measured() for kind, measured in kinds.items()}
    return {kind: scores for kind, scores in found.items() if scores}


def _other_batches(base: Checkpoint, context: Context) -> list[Score]:
    return measure_once(Retention(), base, replace(context, batch_tokens=max(1, context.batch_tokens // 4)))


def _other_dtype(base: Checkpoint, context: Context) -> list[Score]:
    """Nothing for a base in 4 bits, whose dtype is only that of its outputs."""
    if base.quantize is not None:
        return []
    other = "bfloat16" if base.dtype == "float32" else "float32"
    return measure_once(Retention(), replace(base, dtype=other), context)


def _other_wordings(base: Checkpoint, context: Context) -> list[Score]:
    """Of chat tasks alone: a text that is to be continued has no other wording."""
    assert context.suite is not None, "there is a suite"
    chats = [task for task in context.suite.tasks if task.chat]
    found = []
    for wording in WORDINGS if chats else ():
        worded = tuple(
            replace(task, items=tuple(replace(one, prompt=wording.format(prompt=one.prompt)) for one in task.items))
            for task in chats
        )
        suite = replace(context.suite, tasks=worded, corpora=())
        found += measure_once(Retention(), base, replace(context, suite=suite))
    return found


def _other_orders(base: Checkpoint, context: Context) -> list[Score]:
    seeds = [context.seed + extra for extra in range(ORDERS)]
    return [score for seed in seeds for score in measure_once(InContext(), base, replace(context, seed=seed))]


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
