"""Arms that are trained and then measured whole: target, abilities, format and drift, on items that all arms share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from keeptune.core.errors import DivergedError, RecipeError
from keeptune.core.items import read_scores, write_scores
from keeptune.core.score import Score
from keeptune.recipes.material import Material, gather
from keeptune.recipes.measuring import context_of, evaluations_of, measure
from keeptune.recipes.recipe import Recipe
from keeptune.stages._progress import Progress
from keeptune.studies import Plain, Work
from keeptune.studies._arms import trained

QUIET = Progress(quiet=True)


def proven(recipe: Recipe) -> None:
    """Raises where a study has nothing to measure with.

    Raises:
        RecipeError: the recipe has no proof with a target (E-STUDY-PROOF).
    """
    if recipe.proof is None or recipe.proof.target is None:
        raise RecipeError(
            "this study needs a target and a suite.",
            code="E-STUDY-PROOF",
            where={"key": "proof"},
            fix="Give the recipe a proof: {target: {data: task, metric: label_accuracy}, suite: embedded}.",
        )


class Bench:
    """What all arms share: the base, its scores, and material by what it is made of."""

    def __init__(self, work: Work) -> None:
        self.work, self._material = work, dict[str, Material]()

    def material(self, recipe: Recipe) -> Material:
        """The data of an arm, the study's seed in all of them."""
        shared = recipe.model_copy(update={"seed": self.work.recipe.seed})
        sources = sorted({source for stage in recipe.stages for source in stage.sources()})
        key = str([sources, {name: one.to_dict() for name, one in recipe.data.items()}])
        if key not in self._material:
            base = recipe.model.checkpoint
            self._material[key] = gather(shared, self.work.recipe_folder, self.work.workshop, base, QUIET)
        return self._material[key]

    def task_tokens(self) -> int:
        """Tokens of one epoch over the study's own training sources."""
        rows = self.material(self.work.recipe).train
        return sum(len(row.tokens) for one in rows.values() for row in one.rows)

    def base(self) -> list[Score]:
        """The base's scores."""
        return self._measured(self.work.recipe, self.material(self.work.recipe), "base", None, self.work.run.folder)

    def arm(self, label: str, recipe: Recipe, head: Plain) -> Plain:
        """Trains and measures one arm, unless that is done; `head` says what it is, and stands in the result."""
        material = self.material(recipe)
        folder = self.work.folder(label)

        def make() -> Plain:
            begun = time.monotonic()
            try:
                checkpoint = trained(self.work, recipe, material, folder)
            except DivergedError as error:
                return {**head, "arm": label, "failed": error.what, "seconds": round(time.monotonic() - begun, 1)}
            trained_in = round(time.monotonic() - begun, 1)
            self._measured(recipe, material, "adapted", checkpoint, folder)
            spent = {"seconds": round(time.monotonic() - begun, 1), "trained_in": trained_in}
            return {**head, "arm": label, "failed": None, **spent}

        decides = [recipe.to_dict(), material.digest()]
        return self.work.once(label, decides, make)

    def scores(self, arm: Plain) -> list[Score]:
        """What was measured of an arm."""
        return read_scores(self.work.folder(arm["arm"]), "adapted")

    def _measured(self, recipe: Recipe, material: Material, label: str, checkpoint: Any, folder: Path) -> list[Score]:
        shared = recipe.model_copy(update={"seed": self.work.recipe.seed})
        base = recipe.model.checkpoint
        context = context_of(shared, self.work.workshop, material, base, self.work.recipe_folder)
        chosen = evaluations_of(shared, label, context)
        scores = measure(label, chosen, checkpoint or base, context, QUIET, self.work.stop)
        write_scores(folder, label, scores)
        return scores
