"""The deeper look behind a proof (`proof: {diagnose: true}`, `prove --diagnose`): of which kind is the loss?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.behaviour import Behaviour
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.in_context import InContext, Naming
from keeptune.evaluations.represented import Represented
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.spoken import Spoken
from keeptune.recipes.workshop import Workshop
from keeptune.stages._diagnosis import diagnose
from keeptune.stages._recovery import base_answers, recover, recovered_context

QUESTIONS, DOCUMENTS = 300, 60
"""Of each task and corpus, what the recovered copy is asked."""

NAMINGS: tuple[Naming, ...] = ("natural", "flipped", "abstract")
IN_CONTEXT = [InContext(shots=shots, labels=naming) for naming in NAMINGS for shots in (0, 1, 4)]


def with_diagnosis(
    certificate: dict[str, Any],
    before: Sequence[Score],
    after: Sequence[Score],
    adapted: Checkpoint,
    context: Context,
    workshop: Workshop,
    source: str,
) -> dict[str, Any]:
    """The certificate with `diagnosis`, `format.format_gap` and `format.recovered_share`; no verdict changes.

    Encoders say nothing, and get none.

    Args:
        certificate: of the same two models.
        before: scores of the base that the proof measured.
        after: of the adapted model.
        adapted: the checkpoint behind `after`.
        context: of the proof.
        workshop: opens the throw-away copy.
        source: the data source whose answers are the training form.
    """
    assert context.base is not None, "a diagnosis compares with a base"
    if context.subject(context.base).kind != "decoder" or context.suite is None:
        return {**certificate, "diagnosis": None}
    chosen = [Spoken(), Spoken(shots=1), Spoken(shots=4), Represented(), Behaviour(data=source), *IN_CONTEXT]
    own = [score for one in chosen for score in measure_once(one, context.base, context)]
    others = [score for one in chosen for score in measure_once(one, adapted, context)]
    copy = recover(workshop.open(adapted), adapted, base_answers(context), context.seed)
    narrow = replace(recovered_context(context, copy), suite=_part(context.suite))
    again = [score for one in (Retention(), Spoken()) for score in one.measure(adapted, narrow)]
    found = diagnose(
        [*before, *own],
        [*after, *others],
        again,
        certificate["margins"],
        leak=certificate["format"]["leak"],
        unchanged=certificate["unchanged"],
    )
    found["prompted_leak"] = prompted_leak(adapted, context, source)
    found["detach"] = detached(workshop, context.base, adapted)
    gap = found["format_gap"]
    told = [*(context.left_out or []), *_beyond(chosen, context)] if context.reach else context.left_out
    form = {"format_gap": gap and gap["delta"], "recovered_share": found["recovered_share"]}
    return {**certificate, "diagnosis": found, "format": {**certificate["format"], **form}, "left_out": told}


def _beyond(chosen: Sequence[Evaluation], context: Context) -> list[dict[str, Any]]:
    """What was left out because it is longer than the context, examples before it counted, as in `left_out`."""
    longest = context.reach.longest if context.reach else 0
    lost = [part for one in chosen for part in one.beyond(context)]
    return [{"name": name, "items": items, "of": of, "context": longest} for name, items, of in lost]


def prompted_leak(adapted: Checkpoint, context: Context, source: str) -> float | None:
    """The format leak with the task's own prompt on: what a routed adapter holds back while it is off.

    None when the checkpoint has no adapter of scope `task`: with and without is the same. None too when that is a
    template of several texts, which reads no other request.
    """
    if all(ref.scope == "always" for ref in adapted.adapters):
        return None
    try:
        scores = measure_once(FormatDrift(data=source, prompted=True), adapted, context)
    except PlanError as error:
        if error.code != "E-ROWS-TEMPLATE":
            raise
        return None
    return scores[0].value if scores else None


def detached(workshop: Workshop, base: Checkpoint, adapted: Checkpoint) -> bool | None:
    """Whether the adapted model with its adapters off gives bitwise the logits of the base, loaded anew.

    None when the checkpoint carries no adapter, or another base: there is nothing to take off.
    """
    import torch

    if len(adapted.adapters) <= len(base.adapters) or (adapted.base, adapted.dtype) != (base.base, base.dtype):
        return None
    from keeptune.engine.rows import active

    mine, other = workshop.open(base), workshop.subject(adapted)
    text = "What is left when everything that was added is taken off?"
    ids = mine.tokenizer(text, return_tensors="pt")["input_ids"].to(mine.model.device)
    with torch.inference_mode(), active(other.model, [ref.name for ref in base.adapters]):
        return bool(torch.equal(mine.model.eval()(ids).logits, other.model.eval()(ids).logits))


def _part(suite: Suite) -> Suite:
    return replace(
        suite,
        tasks=tuple(replace(task, items=task.items[:QUESTIONS]) for task in suite.tasks),
        corpora=tuple(replace(one, documents=one.documents[:DOCUMENTS]) for one in suite.corpora),
        generations=(),
    )
