"""The trail: a short measurement of every snapshot, so that runs can be compared at equal target score.

It looks at dev rows and at a part of the suite; the proof's test rows are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.digest import digest_of, file_digest
from keeptune.core.files import atomic_write, json_bytes
from keeptune.core.run import Run
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations._summary import summarise
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.halves import Halves
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.target import Target
from keeptune.stages._output import snapshots
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe
    from keeptune.stages._progress import Progress

QUESTIONS, DOCUMENTS, REQUESTS = 100, 24, 60


Measured = Sequence[tuple[Checkpoint, Sequence[Score]]]


def write_trail(
    recipe: Recipe,
    run: Run,
    before: Checkpoint,
    proven: Measured,
    context: Context,
    progress: Progress,
) -> None:
    """Measures the base and the snapshots of the last stage into `trail.jsonl`; nothing when none were kept.

    The base and the result were measured whole for the proof: their points are read off its records, but for the
    target, which the trail looks at on dev.

    Args:
        recipe: whose target and suite are looked at.
        run: where the snapshots lie.
        before: the checkpoint that the last stage started from.
        proven: the base with its scores, then the result with its scores.
        context: of the proof.
        progress: where the user sees it move.
    """
    taken = _snapshots(recipe, run, before)
    if not taken or recipe.proof is None or not isinstance(recipe.proof.target, Target):
        return
    small = replace(context, suite=part_of(context.suite) if context.suite else None)
    target = recipe.proof.target.model_copy(update={"split": "dev"})
    others: list[Evaluation] = [Retention(), FormatDrift(data=target.data, pattern=recipe.proof.leak)]
    known: dict[str, list[Score]] = {}
    subject = context.subject(proven[0][0])
    if not subject.speaks:
        others = [Halves()] if subject.kind == "encoder" else []
    elif small.suite is not None:
        known = {_weights(checkpoint): part_of_scores(scores, small.suite) for checkpoint, scores in proven}
    rows = []
    with progress.track("measuring: the trail", len(taken) + 1) as track:
        for step, checkpoint in [(0, proven[0][0]), *taken]:
            scores = measure_once(target, checkpoint, small)
            rest = known.get(_weights(checkpoint))
            if rest is None:
                rest = [score for evaluation in others for score in measure_once(evaluation, checkpoint, small)]
            rows.append({"step": step, **trail_row([*scores, *rest])})
            track.advance(**{key: value for key, value in rows[-1].items() if value is not None})
    atomic_write(run.folder / "trail.jsonl", b"".join(json_bytes(row) for row in rows))


def _weights(checkpoint: Checkpoint) -> str:
    """Stands for the tensors of a checkpoint: a snapshot of the last step is the result."""
    folders = [Path(checkpoint.base), *(ref.path for ref in checkpoint.adapters)]
    tensors = [[file_digest(file) for file in sorted(folder.glob("*.safetensors"))] for folder in folders]
    scopes = [ref.scope for ref in checkpoint.adapters]
    return digest_of([tensors, scopes, checkpoint.base if not tensors[0] else ""])


def trail_row(scores: Sequence[Score]) -> dict[str, Any]:
    """Target, pooled accuracy, leak and bits per byte; null where nothing was measured."""

    def mean(kind: str) -> float | None:
        values = [score.value for score in scores if score.kind == kind]
        return sum(values) / len(values) if values else None

    return {
        "target": mean("target"), "general": mean("accuracy"), "leak": mean("leak"), "bits_per_byte": mean("corpus"),
    }  # fmt: skip


def part_of(suite: Suite) -> Suite:
    """The first part of a suite: enough to draw a line, far too little for a verdict."""
    return replace(
        suite,
        tasks=tuple(replace(task, items=task.items[:QUESTIONS]) for task in suite.tasks),
        corpora=tuple(replace(corpus, documents=corpus.documents[:DOCUMENTS]) for corpus in suite.corpora),
        generations=tuple(replace(task, items=task.items[:QUESTIONS]) for task in suite.generations),
        instructions=suite.instructions[:REQUESTS],
    )


def part_of_scores(scores: Sequence[Score], suite: Suite) -> list[Score]:
    """What the records of a whole suite say of its first part: each score over the items that `suite` has."""
    sizes = {task.name: len(task.items) for task in suite.tasks}
    sizes |= {task.name: len(task.items) for task in suite.generations}
    sizes |= {corpus.name: len(corpus.documents) for corpus in suite.corpora}
    sizes |= {score.task: len(suite.instructions) for score in scores if score.kind == "leak"}
    return [
        summarise(
            score.task,
            score.kind,
            score.metric,
            score.items[: sizes[score.task]],
            higher_is_better=score.higher_is_better,
            chance=score.chance,
        )
        for score in scores
        if score.kind != "target" and score.task in sizes
    ]


def _snapshots(recipe: Recipe, run: Run, before: Checkpoint) -> list[tuple[int, Checkpoint]]:
    index = len(recipe.stages) - 1
    stage = recipe.stages[index]
    if not isinstance(stage, Train) or not stage.saving.snapshots:
        return []
    return snapshots(run.stage_folder(index, stage.label), before)
