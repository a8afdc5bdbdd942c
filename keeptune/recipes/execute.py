"""One run of a recipe: the base is measured first, then the stages, then what they made; it ends in a certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.digest import digest_of
from keeptune.core.files import read_json
from keeptune.core.machine import free_memory, give_back_memory
from keeptune.core.run import Run
from keeptune.core.score import Score
from keeptune.core.usage import Usage, measured, resident_bytes
from keeptune.data.encode import EncodedSet
from keeptune.evaluations import Context
from keeptune.planning.forecast import Job
from keeptune.recipes.contamination import contamination
from keeptune.recipes.diagnosing import with_diagnosis
from keeptune.recipes.guarding import guarded
from keeptune.recipes.jobs import jobs_of, training_bytes
from keeptune.recipes.looks import Looked, adapted_in_parts
from keeptune.recipes.material import Material, encoded, fitted, gather
from keeptune.recipes.measuring import context_of, evaluations_of, measure
from keeptune.recipes.provenance import exactness_of, manifest_of, provenance_of, test_seen_in, trained_parameters
from keeptune.recipes.recipe import Recipe
from keeptune.recipes.trail import write_trail
from keeptune.recipes.weights_dtype import WeightsDtype, with_dtype
from keeptune.recipes.workshop import Workshop
from keeptune.stages import StageWork
from keeptune.stages._guard import Guarding
from keeptune.stages._made import read_made
from keeptune.stages._progress import Progress


@dataclass(frozen=True)
class Options:
    """How a run is to go, beside its recipe.

    Attributes:
        fork: start anew from the weights when settings differ from those the folder began with.
        weights_only: resume from weights whose optimiser state is lost.
        skip_base: measure nothing; the run ends without a proof.
        command: what the user typed, for the record.
    """

    fork: bool = False
    weights_only: bool = False
    skip_base: bool = False
    command: str = ""


def execute(
    recipe: Recipe,
    folder: Path,
    recipe_folder: Path | None = None,
    *,
    options: Options = Options(),
    progress: Progress | None = None,
    workshop: Workshop | None = None,
    material: Material | None = None,
    dtype: WeightsDtype | None = None,
) -> dict[str, Any] | None:
    """Runs one seed of a recipe in its folder; a second time it does nothing but read the certificate.

    Args:
        recipe: what is run.
        folder: of the run.
        recipe_folder: against which relative paths are read.
        options: how it is to go.
        progress: where the user sees it move.
        workshop: that several runs of one base share; unset: one of its own.
        material: read and encoded before, perhaps in part; unset: what the recipe names.
        dtype: of the weights, where several runs share one; the recipe names it. Unset: `auto` is decided here.

    Raises:
        KeeptuneError: whatever stands in the way, with place and remedy; the folder stays resumable.
    """
    progress = progress or Progress(quiet=True)
    if dtype is None:
        recipe, dtype = with_dtype(recipe, folder)
    with Run.open(folder, fork=options.fork) as held, held.signals(_stopping(progress)), held.at_work():
        return Execution(recipe, held, recipe_folder, options, progress, workshop, material, dtype=dtype).go()


class Execution:
    """One run from its first state to its last."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        recipe_folder: Path | None,
        options: Options,
        progress: Progress,
        workshop: Workshop | None = None,
        material: Material | None = None,
        *,
        dtype: WeightsDtype,
    ) -> None:
        self.recipe, self.run, self.options, self.progress, self.dtype = recipe, run, options, progress, dtype
        self.recipe_folder = recipe_folder
        self.workshop, self.given = workshop or Workshop(trusted=run.folder), material
        self.base = recipe.model.checkpoint
        self.last_input = self.base
        self.spent: dict[str, Usage] = {}
        self.worked = False
        self.process = 0
        self.jobs: Mapping[str, Job] = {}
        self.guard: Guarding | None = None

    def go(self) -> dict[str, Any] | None:
        """Checks, measures, trains, measures, proves."""
        asked = self.recipe
        material = self._timed("reading", self._gather)
        self.recipe = fitted(self.recipe, material)
        loaded = self.workshop.shared(self.base)
        self.run.check_exactness(exactness_of(self.recipe, material, loaded))
        self.run.write_recipe(asked.to_dict())
        self.run.write_manifest(manifest_of(self.recipe, material, loaded, self.dtype, self.options.command))
        self.run.event("dtype", **self.dtype.to_dict())
        self.jobs = self._jobs(material)
        proof = None if self.options.skip_base else self.recipe.proof
        whole = context_of(self.recipe, self.workshop, material, self.base, self.recipe_folder)
        context, self.guard = guarded(self.recipe, whole)
        seen = contamination(material, context.suite) if proof is not None else None
        self.run.write_json("data.json", {**material.counts(), "contamination": seen})
        if proof is not None:
            self.run.enter("baseline")
            before = self._timed("base", lambda: self._measure("base", self.base, context))
            if context.suite is not None and context.suite.harness:
                seen = contamination(material, context.suite, before)
                self.run.write_json("data.json", {**material.counts(), "contamination": seen})
        self.run.enter("running")
        from keeptune.stages import _training  # noqa: F401 (what training imports is memory of the process itself)

        self.process = resident_bytes()
        held = context if self.recipe.proof is not None else None
        checkpoint = self._timed("training", lambda: self._stages(material, held))
        self.run.write_json("checkpoint.json", checkpoint.to_dict(relative_to=self.run.folder))
        if proof is None:
            return None
        looked = self._timed("proof", lambda: self._adapted(before, checkpoint, context))
        after = looked.adapted
        proven = [(self.base, looked.base), (checkpoint, after)]
        self._timed(
            "trail", lambda: write_trail(self.recipe, self.run, self.last_input, proven, context, self.progress)
        )
        return self._certify(before, looked, checkpoint, context)

    def _gather(self) -> Material:
        return self.given or gather(self.recipe, self.recipe_folder, self.workshop, self.base, self.progress)

    def _jobs(self, material: Material) -> Mapping[str, Job]:
        config = self.workshop.shared(self.base).model.config.to_dict()
        return jobs_of(self.recipe, config, material.train, free_memory(gpu=self._on_gpu), gpu=self._on_gpu)

    @property
    def _on_gpu(self) -> bool:
        return bool(self.workshop.shared(self.base).model.device.type == "cuda")

    def _measure(self, label: str, checkpoint: Checkpoint, context: Context) -> list[Score]:
        chosen = evaluations_of(self.recipe, label, context)
        scores = measure(label, chosen, checkpoint, context, self.progress, self.run.stop_requested)
        self.run.write_items(label, scores)
        return scores

    def _adapted(self, before: list[Score], checkpoint: Checkpoint, context: Context) -> Looked:
        """Scores of the adapted model: of everything, or of parts until the verdict stands."""
        assert self.recipe.proof is not None, "without a proof nothing is measured"
        if not self.recipe.proof.sequential:
            return Looked.all_at_once(before, self._measure("adapted", checkpoint, context))
        chosen, stop = evaluations_of(self.recipe, "adapted", context), self.run.stop_requested
        looked = adapted_in_parts(before, chosen, checkpoint, context, self.recipe.proof.margins, self.progress, stop)
        self.run.write_items("adapted", looked.adapted)
        return looked

    def _stages(self, material: Material, context: Context | None) -> Checkpoint:
        checkpoint, so_far = self.base, digest_of([self.base.to_dict(), material.digest(), self.recipe.seed])
        data = dict(material.train)
        task = {material.target} if material.target else set(material.train)
        guarding = [self.recipe.guard.to_dict()] if self.recipe.guard else []
        for index, stage in enumerate(self.recipe.stages):
            so_far = digest_of([so_far, stage.to_dict(), stage.revision, *guarding])
            self.last_input = checkpoint
            done = self.run.stage_done(index, stage.label, so_far)
            if done is not None:
                self.progress.say(f"{stage.label}: done before, nothing to do")
                checkpoint = done
                self._take_made(index, data, task)
                continue
            work = StageWork(
                run=self.run,
                folder=self.run.stage_folder(index, stage.label),
                index=index,
                seed=self.recipe.seed,
                data=data,
                examples={name: source.train for name, source in material.sources.items()},
                template=self.recipe.template,
                base=self.base,
                open=self.workshop.open,
                dev_rows=material.dev,
                task=frozenset(task),
                weights_only=self.options.weights_only,
                progress=self.progress,
                layers_twice=self.jobs[stage.label].step.checkpointed if stage.label in self.jobs else 0,
                context=context,
                cache=cache_folder(),
                guard=self.guard,
            )
            checkpoint = stage.run(checkpoint, work)
            self.worked = True
            self.run.commit_stage(index, stage.label, so_far, checkpoint, {})
            self._take_made(index, data, task)
        return checkpoint

    def _take_made(self, index: int, data: dict[str, EncodedSet], task: set[str]) -> None:
        """Takes the sources that a finished stage made; what is made from the task is the task."""
        stage = self.recipe.stages[index]
        folder = self.run.stage_folder(index, stage.label)
        for name, origin in stage.made_from().items():
            data[name] = encoded(self.recipe, self.workshop.shared(self.base), read_made(folder, name), name)
            task |= {name} if origin in task else set()

    def _certify(self, before: list[Score], looked: Looked, checkpoint: Checkpoint, context: Context) -> dict[str, Any]:
        from keeptune.report.page import write_certificate
        from keeptune.stages._rescoring import rescore
        from keeptune.stages.prove import certify

        assert self.recipe.proof is not None, "a run without a proof has no certificate"
        thorough = self.recipe.proof.diagnose
        again = self._timed("noise floor", lambda: rescore(self.base, context, thorough=thorough))
        certificate = certify(
            looked.base,
            looked.adapted,
            level=looked.level,
            whole=before,
            rescored=again,
            margins=self.recipe.proof.margins,
            seeds=[self.recipe.seed],
            deployment=checkpoint.deployment,
            cost=self._cost(),
            provenance=provenance_of(self.run, context.suite),
        )
        certificate["sequential"], certificate["left_out"] = looked.told, context.left_out
        certificate["selection"] = {"test_seen_in": test_seen_in(self.recipe)}
        if self.recipe.proof.diagnose:
            source = str(getattr(self.recipe.proof.target, "data", ""))
            given = (looked.base, looked.adapted, checkpoint, context, self.workshop, source)
            certificate = self._timed("diagnosis", lambda: with_diagnosis(certificate, *given))
            certificate["cost"] = self._cost()
        self.run.write_json("certificate.json", certificate)
        write_certificate(self.run.folder, self.recipe.proof.lang)
        return certificate

    def _cost(self) -> dict[str, Any]:
        """What the run took; a later call in which no stage had anything to do keeps what the first one wrote."""
        written = self.run.folder / "certificate.json"
        if not self.worked and written.exists():
            first: dict[str, Any] = read_json(written)["cost"]
            return first
        seconds = {name: round(usage.seconds, 2) for name, usage in self.spent.items()}
        peak = max(usage.peak_bytes for usage in self.spent.values())
        count, share = trained_parameters(self.recipe, self.workshop.shared(self.base))
        training = self.spent["training"]
        return {
            "seconds": seconds,
            "peak_bytes": peak,
            "training_peak_bytes": training.peak_device_bytes or training.peak_bytes,
            "forecast_bytes": training_bytes(self.jobs, self.process, gpu=self._on_gpu),
            "trainable_parameters": count,
            "trainable_share": share,
        }

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        with measured() as usage:
            result = work()
        give_back_memory()
        self.spent[name] = usage
        return result


def _stopping(progress: Progress) -> Callable[[str], None]:
    return lambda name: progress.say(f"{name}: finishing this step and saving; once more ends at once.")
