"""What a recipe names, looked for before anything that takes seconds to import."""

from __future__ import annotations

from pathlib import Path

from keeptune.data.formats import FileFormat
from keeptune.data.hub import PREFIX
from keeptune.data.source_file import locate, refuse_irregular
from keeptune.models.folder import check_folder, local_folder
from keeptune.recipes.recipe import Recipe


def require_at_hand(recipe: Recipe, folder: Path) -> None:
    """Refuses a recipe whose files or model are not on this machine; what stands on a hub is not asked for here.

    Args:
        recipe: its `data` and `model`.
        folder: of the recipe's file.

    Raises:
        DataError: a data file is missing or no regular file (E-DATA-MISSING, E-DATA-KIND).
        ModelError: there is no such folder, or a model cannot be loaded from it (E-MODEL-*).
    """
    for settings in recipe.data.values():
        if isinstance(settings, FileFormat) and not settings.path.startswith(PREFIX):
            refuse_irregular(locate(settings.path, folder))
    here = local_folder(recipe.model.name)
    if here is not None:
        check_folder(here)
