"""A short sweep of learning rates: a few runs of a fraction of the length, judged on dev rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import read_json
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.recipe import load_recipe
from keeptune.stages._plan import plan_steps
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.evaluations import Context
    from keeptune.evaluations.target import Target
    from keeptune.recipes.material import Material
    from keeptune.recipes.workshop import Workshop
    from keeptune.stages._progress import Progress

FACTORS = (1 / 3, 1.0, 3.0)
SHARE = 0.2
"""Of the run's steps."""
FEWEST_STEPS = 20
"""In a short run, where the whole one has so many: fewer tell rates apart by their warmup alone."""


@dataclass(frozen=True)
class Sweep:
    """What every run of the sweep shares.

    Attributes:
        recipe: a file or a name.
        settings: of it.
        folder: of all runs; finished ones are not run again.
        recipe_folder: against which relative paths are read.
        workshop: with the one base.
        material: the data, read once.
        context: for the looks at dev.
        target: what is looked at.
        progress: where the user sees it move.
    """

    recipe: str
    settings: Sequence[str]
    folder: Path
    recipe_folder: Path
    workshop: Workshop
    material: Material
    context: Context
    target: Target
    progress: Progress

    def rates(self) -> dict[float, list[str]]:
        """Each rate of the last stage, with the settings that make a short run of it."""
        recipe = load_recipe(self.recipe, list(self.settings))
        index, stage = [(i, one) for i, one in enumerate(recipe.stages) if isinstance(one, Train)][-1]
        short = []
        for i, one in enumerate(recipe.stages):
            if isinstance(one, Train):
                whole = len(plan_steps(one.fitted(self.material.train), self.material.train, recipe.seed, 0))
                steps = min(whole, max(FEWEST_STEPS, round(SHARE * whole)))
                short += [f"stages[{i}].epochs=null", f"stages[{i}].steps={steps}"]
        rate = stage.optimizer.lr
        return {
            float(f"{factor * rate:.2g}"): [f"stages[{index}].optimizer.lr={factor * rate:.2g}", *short]
            for factor in FACTORS
        }

    def trained(self, name: str, settings: Sequence[str]) -> Checkpoint:
        """What a short run ends with; one of that name that is finished is not run again."""
        folder = self.folder / name
        recipe = load_recipe(self.recipe, [*self.settings, *settings])
        execute(
            recipe, folder, self.recipe_folder, options=Options(fork=True, skip_base=True, command="keeptune auto"),
            progress=self.progress, workshop=self.workshop, material=self.material,
        )  # fmt: skip
        return Checkpoint.from_dict(read_json(folder / "checkpoint.json"), relative_to=folder)

    def score(self, rate: float, settings: Sequence[str]) -> float:
        """The dev score after a short run at a rate."""
        checkpoint = self.trained(f"{rate:g}", settings)
        (score,) = self.target.model_copy(update={"split": "dev"}).measure(checkpoint, self.context)
        return score.value


def best_rate(scores: Mapping[float, float], *, higher: bool = True) -> float:
    """The rate with the best score; of equals the smallest, which forgets least."""
    return min(scores, key=lambda rate: (-scores[rate] if higher else scores[rate], rate))
