"""The trail: a short measurement of every snapshot, so that runs can be compared at equal target score.

It looks at dev rows and at a part of the suite; the proof's test rows are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import atomic_write, json_bytes
from keeptune.core.run import Run
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._stored import measure_once
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


def write_trail(
    recipe: Recipe, run: Run, base: Checkpoint, before: Checkpoint, context: Context, progress: Progress
) -> None:
    """Measures the base and the snapshots of the last stage into `trail.jsonl`; nothing when none were kept.

    Args:
        recipe: whose target and suite are looked at.
        run: where the snapshots lie.
        base: the first point.
        before: the checkpoint that the last stage started from.
        context: of the proof.
        progress: where the user sees it move.
    """
    taken = _snapshots(recipe, run, before)
    if not taken or recipe.proof is None or not isinstance(recipe.proof.target, Target):
        return
    small = replace(context, suite=part_of(context.suite) if context.suite else None)
    target = recipe.proof.target.model_copy(update={"split": "dev"})
    chosen: list[Evaluation] = [target, Retention(), FormatDrift(data=target.data, pattern=recipe.proof.leak)]
    if context.subject(base).kind == "encoder":
        chosen = [target, Halves()]
    rows = []
    with progress.track("measuring: the trail", len(taken) + 1) as track:
        for step, checkpoint in [(0, base), *taken]:
            scores = [score for evaluation in chosen for score in measure_once(evaluation, checkpoint, small)]
            rows.append({"step": step, **trail_row(scores)})
            track.advance(**{key: value for key, value in rows[-1].items() if value is not None})
    atomic_write(run.folder / "trail.jsonl", b"".join(json_bytes(row) for row in rows))


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


def _snapshots(recipe: Recipe, run: Run, before: Checkpoint) -> list[tuple[int, Checkpoint]]:
    index = len(recipe.stages) - 1
    stage = recipe.stages[index]
    if not isinstance(stage, Train) or not stage.saving.snapshots:
        return []
    return snapshots(run.stage_folder(index, stage.label), before)
