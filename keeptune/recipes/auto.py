"""`keeptune auto`: from a data file to a certificate, with every choice made in the open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from keeptune.core.errors import RecipeError
from keeptune.core.files import make_folder, read_json, write_json
from keeptune.core.run import Run
from keeptune.evaluations.target import Target
from keeptune.recipes import hands
from keeptune.recipes.baselines import Baseline, baselines
from keeptune.recipes.deciding import BUDGET, Situation, decisions, enough
from keeptune.recipes.guarding import budget_settings, guarded
from keeptune.recipes.hands import Hand
from keeptune.recipes.jobs import jobs_of
from keeptune.recipes.material import Material, fitted, gather
from keeptune.recipes.measuring import context_of
from keeptune.recipes.rates import Sweep, best_rate
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.recipes.run import run_recipe
from keeptune.recipes.start import write_recipe
from keeptune.recipes.weights_dtype import with_dtype
from keeptune.recipes.within_context import within_context
from keeptune.recipes.workshop import Workshop
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.evaluations import Context

MOST_DEV = 200
WORKED = 0.9
"""Share of the answers that must end in a number for them to count as checkable."""


def auto(
    data: Path,
    model: str = "pocket",
    output: Path = Path("runs/auto"),
    *,
    goal: float | None = None,
    budget: Sequence[str] = (),
    settings: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Baselines, short runs for rate and hand, the recipe that the situation calls for, and its certificate.

    Args:
        data: as `keeptune init` takes it.
        model: as `keeptune init` takes it.
        output: folder; a second call goes on where the first one stopped.
        goal: a score on the task, in its own unit; where the untrained base reaches it, nothing is trained.
        budget: what may be lost, as `keeptune run --budget` takes it: the guard's, and how hard the base is held to;
            two points where the keep recipe is run and none is said.
        settings: `--set` overrides, which win over every choice.
        quiet: show no progress.

    Returns:
        `decisions`, `baselines`, `rates`, `hands`, and what `keeptune run` gives; `verdict` None where nothing was
        trained.

    Raises:
        KeeptuneError: as `init` and `run`.
    """
    make_folder(output)
    recipe_file, progress = output / "recipe.yaml", Progress(quiet=quiet)
    if not recipe_file.exists():
        progress.say(write_recipe(data, model, recipe_file)["text"].split("\n\n")[0])
    with Run.open(output / "look"):
        found = _Look(recipe_file, settings, goal, budget, Workshop(trusted=output), progress, output)
        situation, rates = found.situation, found.rates()
        held = found.hands(rates)
    chosen = decisions(situation)
    result: dict[str, Any] = {
        "decisions": [asdict(one) for one in chosen],
        "baselines": [asdict(one) for one in situation.baselines],
        "rates": {f"{rate:g}": score for rate, score in rates.items()},
        "hands": [asdict(one) for one in held],
    }
    write_json(output / "auto.json", result)
    told = "\n".join(f"{one.what}\n    {one.because}" for one in chosen)
    if rates:
        shown = ", ".join(f"{rate:g}: {situation.shown(score)}" for rate, score in rates.items())
        told += f"\nlearning rate {best_rate(rates, higher=situation.higher):g}\n    dev after short runs: {shown}"
    if held:
        weight = hands.chosen(held, higher=situation.higher)
        told += f"\nthe hand: a KL of weight {weight:g}\n    dev after short runs, and what they lost at the worse "
        told += f"end of a 95% bound: {hands.told(held, situation.shown)}"
    met = enough(situation)
    if met is not None:
        write_json(output / "prompt.json", list(met.examples))
        return {**result, "folder": str(output), "verdict": None, "text": told}
    progress.say(told)
    finished = run_recipe(
        str(recipe_file), output / "run", [*found.chosen(rates, held), *settings],
        budget=situation.budget if situation.recipe == "keep" else budget, quiet=quiet,
    )  # fmt: skip
    return {**finished, **result}


class _Look:
    """What is measured before the choice; each part is kept in the folder and not measured twice."""

    def __init__(
        self,
        file: Path,
        settings: Sequence[str],
        goal: float | None,
        budget: Sequence[str],
        workshop: Workshop,
        progress: Progress,
        output: Path,
    ) -> None:
        self.output, self.workshop, self.progress = output, workshop, progress
        self.recipe, dtype = with_dtype(load_recipe(file, list(settings)), output)
        self.file, self.settings = str(file), [*settings, f"model.dtype={dtype.name}"]
        self.budget = list(budget or BUDGET)
        self.base = self.recipe.model.checkpoint
        self.loaded = workshop.shared(self.base)
        target = self.recipe.proof.target if self.recipe.proof else None
        if not isinstance(target, Target):
            raise RecipeError(
                "there is no target to choose by.",
                code="E-AUTO-TARGET",
                where={"key": "proof.target"},
                fix="Leave `proof.target` as `keeptune init` wrote it.",
            )
        self.target = target
        self.material: Material = gather(self.recipe, output, workshop, self.base, progress)
        context = context_of(self.recipe.model_copy(update={"proof": None}), workshop, self.material, self.base, output)
        context = within_context(context, [workshop.subject(self.base)], target)
        dev = f"{target.data}/dev"
        self.context: Context = replace(context, data={**context.data, dev: list(context.data.get(dev, ()))[:MOST_DEV]})
        self.situation = self._situation(goal)

    def rates(self) -> dict[float, float]:
        """Dev scores of the sweep; none where nothing will be trained."""
        if enough(self.situation) is not None:
            return {}
        sweep = self._sweep()
        short = sweep.rates()
        return {rate: self._once(f"rate-{rate:g}", partial(sweep.score, rate, short[rate])) for rate in short}

    def hands(self, rates: dict[float, float]) -> list[Hand]:
        """Short runs at the best rate, from the recipe's hand to lighter ones.

        None where nothing will be trained, nothing holds to the base, or the losses are the user's own.
        """
        place = hands.place_of(self.recipe)
        own = any(".losses" in setting.partition("=")[0] for setting in self.settings)
        if not rates or self.situation.recipe != "keep" or place is None or own:
            return []
        limits = load_recipe(self.file, [*hands.GUARD, *self.settings, *budget_settings(self.budget)])
        context = context_of(self.recipe, self.workshop, self.material, self.base, self.output)
        _, guarding = guarded(hands.choosing(limits), context)
        assert guarding is not None, "the recipe was given one"
        setting, strongest = place
        rate, sweep = best_rate(rates, higher=self.situation.higher), self._sweep()
        short = sweep.rates()[rate]

        def run(weight: float) -> dict[str, Any]:
            lighter = [] if weight == strongest else [f"{setting}={weight:g}"]  # the strongest was run for its rate
            name = f"{rate:g}-held-{weight:g}" if lighter else f"{rate:g}"
            return asdict(hands.measured(weight, sweep.trained(name, [*short, *lighter]), guarding))

        def once(weight: float) -> Hand:
            return Hand(**self._once(f"hand-{weight:g}", partial(run, weight), rate, self.budget))

        return list(hands.tried(hands.weights(strongest), once))

    def chosen(self, rates: dict[float, float], held: Sequence[Hand] = ()) -> list[str]:
        """Settings of the run that follow from what was found."""
        last, place = len(self.recipe.stages) - 1, hands.place_of(self.recipe)
        rate = best_rate(rates, higher=self.situation.higher)
        settings = [*self._fitting(), f"stages[{last}].optimizer.lr={rate:g}"]
        if held and place is not None:
            weight = hands.chosen(held, higher=self.situation.higher)
            settings += [f"{place[0]}={weight:g}", *hands.GUARD]
        return settings

    def _sweep(self) -> Sweep:
        return Sweep(
            self.file, [*self._fitting(), *self.settings], self.output / "rates", self.output,
            self.workshop, self.material, self.context, self.target, self.progress,
        )  # fmt: skip

    def _fitting(self) -> list[str]:
        return [] if self.situation.fits or self.situation.recipe != "keep" else ["model.quantize=nf4"]

    def _situation(self, goal: float | None) -> Situation:
        train = self.material.sources[self.target.data].train
        recipe = _kind_of(self.recipe)
        return Situation(
            recipe=recipe,
            answers=_answers(self.target, [example.target for example in train]),
            rows=len(train),
            parameters=self.loaded.model.num_parameters(),
            fits=self._fits(),
            baselines=[] if recipe == "lp_ft" else self._baselines(),
            goal=goal,
            budget=self.budget,
            higher=self.target.metric != "bits_per_byte",
        )

    def _baselines(self) -> list[Baseline]:
        def measured() -> list[dict[str, Any]]:
            return [asdict(one) for one in baselines(self.base, self.context, self.target, self.recipe.seed)]

        stored = self._once("baselines", measured)
        return [Baseline(**{**one, "examples": tuple(one["examples"])}) for one in stored]

    def _fits(self) -> bool:
        from keeptune.core.machine import free_memory

        gpu = self.loaded.model.device.type == "cuda"
        room = free_memory(gpu=gpu)
        recipe, config = fitted(self.recipe, self.material), self.loaded.model.config.to_dict()
        jobs = jobs_of(recipe, config, self.material.train, room, gpu=gpu)
        return all((job.memory.peak if gpu else job.memory.resident) <= room for job in jobs.values())

    def _once(self, name: str, make: Any, *decides: Any) -> Any:
        path, key = self.output / "look" / f"{name}.json", [self.recipe.digest(), self.material.digest(), *decides]
        if path.exists() and (stored := read_json(path))["key"] == key:
            return stored["result"]
        self.progress.say(f"looking: {name}")
        result = make()
        write_json(path, {"key": key, "result": result})
        return result


def _kind_of(recipe: Recipe) -> Literal["keep", "lp_ft", "masked"]:
    """What `init` wrote, by what its last stage learns from."""
    losses = [loss.name for stage in recipe.stages if isinstance(stage, Train) for loss in stage.losses]
    return "lp_ft" if "label" in losses else "masked" if "masked_token" in losses else "keep"


def _answers(target: Target, answers: Sequence[str]) -> Literal["labels", "worked", "prose", "texts"]:
    from keeptune.data.verifiers.number import final_number

    if target.metric == "bits_per_byte":
        return "texts"
    some = answers[:200]
    if some and sum(final_number(answer, "####") is not None for answer in some) >= WORKED * len(some):
        return "worked"
    return "labels" if target.metric == "label_accuracy" else "prose"
