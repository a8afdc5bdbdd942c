"""`keeptune study`: a study of the shelf, run on a recipe in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from keeptune.core.errors import RecipeError
from keeptune.core.files import read_json
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.recipes.overrides import with_overrides
from keeptune.recipes.recipe import load_recipe, recipe_path
from keeptune.recipes.weights_dtype import with_dtype
from keeptune.recipes.workshop import Workshop
from keeptune.stages._progress import Progress
from keeptune.studies import Plain, Study, Work


def run_study(
    name: str,
    recipe: str,
    output: Path | None,
    settings: Sequence[str] = (),
    choices: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> Plain:
    """What `keeptune study` does; the result stands in `OUTPUT/study.json` too.

    Args:
        name: of the study.
        recipe: a recipe file, or the name of a recipe.
        output: the study's folder; unset: `runs/study-NAME-RECIPE`.
        settings: of the recipe, `a.b=c`.
        choices: of the study, `a=b`.
        quiet: show no progress.

    Raises:
        RecipeError: no such study or recipe, or a setting is wrong.
        KeeptuneError: whatever stops an arm; finished arms are kept.
    """
    study: Study = validate(Study, with_overrides({"name": name}, list(choices)))
    asked = load_recipe(recipe, list(settings))
    folder = output or Path("runs") / f"study-{study.name}-{asked.name}"
    progress = Progress(quiet=quiet)
    loaded, dtype = with_dtype(asked, folder)
    progress.say(f"dtype {dtype}")
    with Run.open(folder) as held, held.signals(_stopping(progress)), held.at_work():
        _refuse_another(held.folder, study.name)
        held.write_json("study.recipe.json", {"study": study.to_dict(), "recipe": loaded.to_dict()})
        work = Work(held, loaded, recipe_path(recipe).parent, Workshop(trusted=held.folder), progress)
        held.enter("running")
        result = study.conduct(work)
        held.write_json("study.json", {key: value for key, value in result.items() if key != "text"})
    return {**result, "folder": str(folder)}


def _refuse_another(folder: Path, name: str) -> None:
    """A study may grow in its folder, by seeds or arms; another one, or a run, is not written over."""
    own, held = folder / "study.recipe.json", "a run or a proof"
    if own.is_file():
        try:
            held = f"the study '{read_json(own)['study']['name']}'"
        except (ValueError, LookupError, TypeError):
            held = f"a study whose {own.name} is damaged"
    if held == f"the study '{name}'" or not any((folder / file).exists() for file in (own.name, "exactness.json")):
        return
    raise RecipeError(
        f"this folder holds {held}.", code="E-RESUME-DIFFERENT", where={"file": str(folder)},
        why="It would be written over.", fix="Choose another --output.",
    )  # fmt: skip


def _stopping(progress: Progress) -> Callable[[str], None]:
    return lambda name: progress.say(f"{name}: finishing this step and saving; once more ends at once.")
