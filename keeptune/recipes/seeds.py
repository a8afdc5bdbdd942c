"""Seeds: one run speaks for its checkpoint; three or more, each in its own folder, speak for the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.files import atomic_write, make_folder, write_json
from keeptune.recipes.execute import Options, execute

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe
    from keeptune.stages._progress import Progress


def execute_seeds(
    recipe: Recipe, folder: Path, recipe_folder: Path | None, *, options: Options, progress: Progress
) -> dict[str, Any] | None:
    """Runs the recipe once per seed; the certificate of the whole stands in `folder`."""
    count = recipe.proof.seeds if recipe.proof else 1
    if count == 1:
        return execute(recipe, folder, recipe_folder, options=options, progress=progress)
    certificates = []
    for seed in range(recipe.seed, recipe.seed + count):
        assert recipe.proof is not None, "several seeds are a setting of the proof"
        single = recipe.model_copy(update={"seed": seed, "proof": recipe.proof.model_copy(update={"seeds": 1})})
        progress.say(f"seed {seed}")
        certificates.append(
            execute(single, folder / "seeds" / str(seed), recipe_folder, options=options, progress=progress)
        )
    return _together(folder, [certificate for certificate in certificates if certificate is not None])


def _together(folder: Path, certificates: list[dict[str, Any]]) -> dict[str, Any] | None:
    raise AssertionError(folder, certificates, atomic_write, make_folder, write_json)
