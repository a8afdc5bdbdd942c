"""Arms that are trained and then measured whole: target, abilities, format and drift, on items that all arms share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from keeptune.core.errors import DivergedError, RecipeError
from keeptune.core.items import read_scores, write_scores
from keeptune.core.score import Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations.target import Target
from keeptune.recipes.material import Material, gather
from keeptune.recipes.measuring import context_of, evaluations_of, measure
from keeptune.recipes.recipe import Recipe
from keeptune.stages._progress import Progress
from keeptune.studies import Plain, Work
from keeptune.studies._arms import identity, trained
from keeptune.studies._beside import run_beside

QUIET = Progress(quiet=True)
Arm = tuple[str, Recipe, Plain]
"""Its label, its recipe, and what stands in its result."""


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
    """What all arms share: the base, its scores, and material by what it is made of.

    Args:
        work: of the study.
        also: what is measured beside the proof; one of a source that the proof measures too stands for it.
        prepared: changes the material of every arm.
        whole: measure the proof's suite, format and drift; else only `also`.
    """

    def __init__(
        self,
        work: Work,
        also: Sequence[Target] = (),
        prepared: Callable[[Material], Material] | None = None,
        whole: bool = True,
    ) -> None:
        self.work, self.also, self.prepared, self.whole = work, also, prepared, whole
        self._material: dict[str, Material] = {}

    def material(self, recipe: Recipe) -> Material:
        """The data of an arm, the study's seed in all of them."""
        shared = recipe.model_copy(update={"seed": self.work.recipe.seed})
        sources = sorted({source for stage in recipe.stages for source in stage.sources()})
        key = str([sources, {name: one.to_dict() for name, one in recipe.data.items()}])
        if key not in self._material:
            base = recipe.model.checkpoint
            made = gather(shared, self.work.recipe_folder, self.work.workshop, base, QUIET)
            self._material[key] = made if self.prepared is None else self.prepared(made)
        return self._material[key]

    def task_tokens(self) -> int:
        """Tokens of one epoch over the study's own training sources."""
        rows = self.material(self.work.recipe).train
        return sum(len(row.tokens) for one in rows.values() for row in one.rows)

    def base(self) -> list[Score]:
        """The base's scores, measured once for the folder."""
        recipe, folder = self.work.recipe, self.work.run.folder
        material = self.material(recipe)

        def make() -> Plain:
            self._measured(recipe, material, "base", None, folder)
            return {}

        self.work.once("base", self._decides(recipe, material), make)
        return read_scores(folder, "base")

    def arms(self, wanted: Sequence[Arm], jobs: int) -> None:
        """Makes several arms at a time; `arm` reads each afterwards."""
        if jobs > 1:
            for _, recipe, _ in wanted:
                self.material(recipe)
            run_beside([partial(self.arm, *one) for one in wanted], jobs, self.work)

    def arm(self, label: str, recipe: Recipe, head: Plain) -> Plain:
        """Trains and measures one arm, unless that is done; `head` says what it is, and stands in the result."""
        material = self.material(recipe)
        folder = self.work.folder(label)

        def make() -> Plain:
            begun = time.monotonic()
            try:
                checkpoint = trained(self.work, recipe, material, folder)
            except DivergedError as error:
                return {**head, "arm": label, "failed": error.what}
            trained_in = round(time.monotonic() - begun, 1)
            self._measured(recipe, material, "adapted", checkpoint, folder)
            return {**head, "arm": label, "failed": None, "trained_in": trained_in}

        return self.work.once(label, self._decides(recipe, material), make)

    def scores(self, arm: Plain) -> list[Score]:
        """What was measured of an arm."""
        return read_scores(self.work.folder(arm["arm"]), "adapted")

    def _decides(self, recipe: Recipe, material: Material) -> Plain:
        """What decides an arm's scores: the arm, and what is measured."""
        also = [one.to_dict() for one in self.also]
        suite = self._context(recipe, material).suite if self.whole else None
        return {**identity(self.work, recipe, material), "also": also, "suite": suite.digest() if suite else None}

    def _context(self, recipe: Recipe, material: Material) -> Context:
        return context_of(recipe, self.work.workshop, material, recipe.model.checkpoint, self.work.recipe_folder)

    def _measured(self, recipe: Recipe, material: Material, label: str, checkpoint: Any, folder: Path) -> list[Score]:
        shared = recipe.model_copy(update={"seed": self.work.recipe.seed})
        context = self._context(shared, material)
        chosen = self._chosen(shared, label, context)
        scores = measure(label, chosen, checkpoint or recipe.model.checkpoint, context, QUIET, self.work.stop)
        write_scores(folder, label, scores)
        return scores

    def _chosen(self, recipe: Recipe, label: str, context: Context) -> list[Evaluation]:
        if not self.also:
            return evaluations_of(recipe, label, context)
        own = {one.data for one in self.also}
        rest = evaluations_of(recipe, label, context) if self.whole else []
        return [*self.also, *(one for one in rest if not (isinstance(one, Target) and one.data in own))]
