"""One arm of a study: a recipe trained on given material with the base that all arms share, and scored on its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.digest import digest_of
from keeptune.core.errors import RecipeError
from keeptune.core.files import read_json
from keeptune.core.score import Score
from keeptune.evaluations import Context
from keeptune.evaluations.target import Target
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.material import Material, encoded
from keeptune.recipes.measuring import measure
from keeptune.recipes.recipe import Recipe
from keeptune.recipes.within_context import within_context
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train
from keeptune.studies import Plain, Work


def identity(work: Work, recipe: Recipe, material: Material) -> Plain:
    """What decides an arm, wherever its files lie: settings without places, and digests of what lies there.

    The proof's suite is left out; who measures it adds its digest.
    """
    plain = recipe.to_dict()
    for source in plain["data"].values():
        source.pop("path", None)
    plain["model"] = work.workshop.subject(recipe.model.checkpoint).files
    if plain["proof"]:
        del plain["proof"]["suite"]
    return {"recipe": plain, "rows": material.digest(), "revisions": [stage.revision for stage in recipe.stages]}


def trained(work: Work, recipe: Recipe, material: Material, folder: Path) -> Checkpoint:
    """The checkpoint that the recipe's stages make in `folder`; finished stages are not run again.

    Args:
        work: of the study.
        recipe: of the arm; its base is the study's.
        material: of the arm.
        folder: of the arm's run; a run of other settings or rows there is begun anew.

    Raises:
        Interrupted: a signal came; the run is kept and goes on next time.
    """
    options = Options(fork=True, skip_base=True, command="keeptune study")
    quiet = Progress(quiet=True)
    if not any(stage.saving.watches_dev for stage in recipe.stages if isinstance(stage, Train)):
        # A look at dev at every commit costs as much as a third of the training, and nobody sees it.
        material = replace(material, dev=None)
    execute(
        recipe, folder, work.recipe_folder, options=options, progress=quiet, workshop=work.workshop, material=material
    )
    return Checkpoint.from_dict(read_json(folder / "checkpoint.json"), relative_to=folder)


def subset(work: Work, recipe: Recipe, material: Material, source: str, indices: Sequence[int]) -> Material:
    """The material with only these training rows of a source, in this order."""
    whole = material.sources[source]
    rows = tuple(whole.train[index] for index in indices)
    part = replace(whole, train=rows, digest=digest_of([whole.digest, list(map(int, indices))]))
    loaded = work.workshop.shared(recipe.model.checkpoint)
    return replace(
        material,
        sources={**material.sources, source: part},
        train={**material.train, source: encoded(recipe, loaded, rows, source)},
    )


def target_of(recipe: Recipe) -> Target:
    """What the recipe's proof holds for the task.

    Raises:
        RecipeError: it names none (E-STUDY-TARGET).
    """
    found = recipe.proof.target if recipe.proof else None
    if not isinstance(found, Target):
        raise RecipeError(
            "a study of the task needs to know what is measured of it.", code="E-STUDY-TARGET",
            where={"key": "proof.target"}, fix="Give the recipe: proof: {target: {data: task, metric: label_accuracy}}",
        )  # fmt: skip
    return found


def scored(work: Work, checkpoint: Checkpoint, material: Material) -> Score:
    """The target score of a checkpoint on the test rows of the whole material; a score that is known is read."""
    from keeptune.models.device import scoring_tokens

    target = target_of(work.recipe)
    context = Context(
        subject=work.workshop.subject,
        base=work.recipe.model.checkpoint,
        data=material.examples(),
        seed=work.recipe.seed,
        batch_tokens=scoring_tokens(work.workshop.shared(work.recipe.model.checkpoint).model.device),
        cache=cache_folder(),
    )
    context = within_context(context, [context.subject(checkpoint)], target)
    return measure("arm", [target], checkpoint, context, Progress(quiet=True), work.stop)[0]
