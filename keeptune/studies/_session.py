"""`keeptune study`: a study of the shelf, run on a recipe in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from keeptune.core.errors import KeeptuneError
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
    with Run.open(folder) as held, held.signals(_stopping(progress)):
        held.enter("checking")
        held.write_json("study.recipe.json", {"study": study.to_dict(), "recipe": loaded.to_dict()})
        work = Work(held, loaded, recipe_path(recipe).parent, Workshop(trusted=held.folder), progress)
        held.enter("running")
        try:
            result = study.conduct(work)
        except KeeptuneError as error:
            held.enter("interrupted" if error.exit_code == 75 else "failed", f"{error.code} {error.what}"[:500])
            raise
        held.write_json("study.json", {key: value for key, value in result.items() if key != "text"})
        held.enter("done")
    return {**result, "folder": str(folder)}


def _stopping(progress: Progress) -> Callable[[str], None]:
    return lambda name: progress.say(f"{name}: finishing this step and saving; once more ends at once.")
