"""What a proof measures, and with what: the target, the suite, the format, the drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import keeptune.data
from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import Interrupted, RecipeError, did_you_mean
from keeptune.core.score import Score
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._stored import measure_unless_claimed
from keeptune.evaluations.cloze import Cloze
from keeptune.evaluations.drift import Drift
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.halves import Halves, halves_of
from keeptune.evaluations.harness import Harness
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.target import Target
from keeptune.recipes.material import Material
from keeptune.recipes.positions_left import positions_taken
from keeptune.recipes.within_context import within_context

if TYPE_CHECKING:
    from keeptune.core.signals import StopRequest
    from keeptune.recipes.recipe import Recipe
    from keeptune.recipes.workshop import Workshop
    from keeptune.stages._progress import Progress, Track
    from keeptune.stages.prove import Margins


SUITES = Path(keeptune.data.__file__).parent / "suites"


def suite_of(name: str, folder: Path | None, items: int = 1500) -> Suite:
    """The embedded suite with so many questions per task, one that comes with keeptune, or the suite of a file."""
    if name == "embedded":
        from keeptune.pocket.suite import build_suite

        return build_suite(size=items)
    from keeptune.data.suite_files import read_suite

    own = SUITES / f"{name}.yaml"
    if own.is_file():
        return read_suite(own)
    path = Path(name)
    return read_suite(path if path.is_absolute() or folder is None or path.exists() else folder / path)


def refuse_unknown_margins(margins: Margins, suite: Suite) -> None:
    """Raises E-MARGIN-TASK for a single task's margin whose task the suite does not ask: it would hold nothing."""
    known = {*suite.sizes(), *(halves_of(corpus) for corpus in suite.corpora)}
    for name in margins.tasks:
        if name not in known:
            raise RecipeError(
                f"there is a margin for '{name}', which the suite '{suite.name}' does not ask.", code="E-MARGIN-TASK",
                where={"key": "margins.tasks"}, fix=did_you_mean(name, known),
            )  # fmt: skip


def context_of(
    recipe: Recipe, workshop: Workshop, material: Material, base: Checkpoint, folder: Path | None
) -> Context:
    """The context of a run's evaluations, without what is longer than the base's context."""
    from keeptune.models.device import scoring_tokens

    suite = suite_of(recipe.proof.suite, folder, recipe.proof.items) if recipe.proof else None
    asked = tuple(task for source in material.sources.values() for task in source.tasks)
    if suite is not None and workshop.shared(base).anatomy.kind == "encoder":
        suite = replace(suite, tasks=asked)
    elif suite is not None and asked:
        suite = replace(suite, tasks=(*suite.tasks, *asked))
    if suite is not None and recipe.proof is not None:
        refuse_unknown_margins(recipe.proof.margins, suite)
    context = Context(
        subject=workshop.subject,
        base=base,
        data=material.examples(),
        suite=suite,
        seed=recipe.seed,
        batch_tokens=scoring_tokens(workshop.shared(base).model.device),
        cache=cache_folder(),
    )
    target = recipe.proof.target if recipe.proof and isinstance(recipe.proof.target, Target) else None
    loaded = workshop.shared(base)
    taken = positions_taken(recipe, loaded.model.config.to_dict(), loaded.tokenizer)
    most = max(taken.values(), default=0)
    return within_context(context, [workshop.subject(base)], target, taken=most)


def evaluations_of(recipe: Recipe, label: str, context: Context) -> list[Evaluation]:
    """The evaluations of a proof; drift is measured of the adapted model only, since the base's is nothing.

    An encoder writes nothing, so its general ability is another one, and there is no format that could leak. Of an
    image encoder no general ability is measured: the suites are texts.
    """
    proof = recipe.proof
    assert proof is not None, "without a proof nothing is measured"
    assert context.base is not None, "a proof compares with a base"
    subject = context.subject(context.base)
    speaks, chosen = subject.speaks, general_of(subject, context.suite)
    if isinstance(proof.target, Target):
        chosen.insert(0, proof.target)
        if proof.target.split == "test" and f"{proof.target.data}/ood" in context.data:
            chosen.append(proof.target.model_copy(update={"split": "ood"}))
        if speaks:
            chosen.append(FormatDrift(data=proof.target.data, pattern=proof.leak))
    if label != "base" and speaks:
        chosen.append(Drift(data=proof.target.data) if isinstance(proof.target, Target) else Drift())
    return chosen


def general_of(subject: Subject, suite: Suite | None) -> list[Evaluation]:
    """What is asked of general ability, as the kind of model allows; of an image encoder nothing: suites are texts."""
    chosen: list[Evaluation] = [] if subject.kind == "image" else [Retention() if subject.speaks else Halves()]
    if suite is None:
        return chosen
    if subject.kind == "encoder" and suite.tasks and subject.fills_masks:
        chosen.append(Cloze())
    return [*chosen, Harness()] if suite.harness else chosen


def measure(
    label: str,
    chosen: Sequence[Evaluation],
    checkpoint: Checkpoint,
    context: Context,
    progress: Progress,
    stop: StopRequest | None = None,
) -> list[Score]:
    """All scores of one checkpoint; what was measured before, by whatever run, is read instead.

    Two runs that start from one base share the work: what another process is measuring comes last here.

    Raises:
        Interrupted: `stop` was set (E-RUN-INTERRUPTED). Evaluations that were finished are kept.
    """
    found: dict[int, list[Score]] = {}
    with progress.track(f"measuring: {label}", len(chosen)) as track:
        heard = replace(context, progress=_listener(track, stop))
        waiting, wait = list(range(len(chosen))), False
        while waiting:
            left = []
            for number in waiting:
                scores = measure_unless_claimed(chosen[number], checkpoint, heard, wait=wait)
                if scores is None:
                    left.append(number)
                    continue
                found[number] = _named(chosen[number], scores)
                track.advance()
            waiting, wait = left, len(left) == len(waiting)
    scores = [score for number in sorted(found) for score in found[number]]
    progress.say(summary(label, scores))
    return scores


def _listener(track: Track, stop: StopRequest | None) -> Callable[[str, int, int], None]:
    """Shows the items of an evaluation, and leaves between two batches when the user asks for it."""

    def tell(what: str, done: int, total: int) -> None:
        if stop is not None and stop.is_set():
            raise Interrupted(
                "stopped by a signal while measuring; finished measurements are kept.",
                code="E-RUN-INTERRUPTED",
                fix="Run the same command again to go on.",
            )
        track.within(what, done, total)

    return tell


def _named(evaluation: Evaluation, scores: list[Score]) -> list[Score]:
    """The scores of the out-of-distribution split carry it in their names, and so do their items."""
    if getattr(evaluation, "split", "") != "ood":
        return scores
    named = [(score, f"{score.task}/ood") for score in scores]
    return [
        replace(score, task=name, items=tuple(replace(item, task=name) for item in score.items))
        for score, name in named
    ]


def summary(label: str, scores: Sequence[Score]) -> str:
    """One line on a terminal: `base: target 12.0%, abilities 71.3%, bits per byte 1.92, leak 0.0%`."""
    parts = []
    for kind, name in (("target", "target"), ("accuracy", "abilities"), ("corpus", "bits per byte"), ("leak", "leak")):
        found = [score for score in scores if score.kind == kind and not score.task.endswith("/ood")]
        if found:
            mean = sum(score.value for score in found) / len(found)
            bits = found[0].metric == "bits_per_byte"
            parts.append(f"{name} {mean:.3f}" if bits else f"{name} {100 * mean:.1f}%")
    return f"{label}: {', '.join(parts)}"
