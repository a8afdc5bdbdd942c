"""One arm of a study: a recipe trained on given material with the base that all arms share."""

from __future__ import annotations

from pathlib import Path

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import read_json
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.material import Material
from keeptune.recipes.recipe import Recipe
from keeptune.stages._progress import Progress
from keeptune.studies import Work


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
    execute(
        recipe, folder, work.recipe_folder, options=options, progress=quiet, workshop=work.workshop, material=material
    )
    return Checkpoint.from_dict(read_json(folder / "checkpoint.json"), relative_to=folder)
