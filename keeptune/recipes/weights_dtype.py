"""The dtype of a run's frozen weights, and why: what `dtype: auto` comes to where a run begins and where it goes on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.files import read_json
from keeptune.core.run import MADE

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Model, Recipe

SLOW = "its products take many times as long as in float32"


@dataclass(frozen=True)
class WeightsDtype:
    """A dtype, and why it was taken.

    Attributes:
        name: `bfloat16` or `float32`.
        why: a clause for people.
        remedy: what to do where the device has no units for it; empty where there is nothing to do.
    """

    name: str
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" + (f". {self.remedy}" if self.remedy else "")

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return {"dtype": self.name, "dtype_reason": self.why}


def with_dtype(recipe: Recipe, folder: Path | None = None) -> tuple[Recipe, WeightsDtype]:
    """The recipe with `auto` decided, so that everything that is stored names a dtype, and why it is that one.

    A run keeps the dtype that it began in, on whatever machine it goes on: its finished stages stay finished, and no
    part of it is in another dtype than the rest. A dtype that the recipe names is that one.

    Args:
        recipe: what is run.
        folder: of the run, or of a study or several seeds, whose runs lie below; None: it is not a question of one.
    """
    taken = dtype_of(recipe.model, folder)
    model = recipe.model.model_copy(update={"dtype": taken.name})
    return recipe.model_copy(update={"model": model}), taken


def dtype_of(model: Model, folder: Path | None = None) -> WeightsDtype:
    """The dtype of a recipe's model and why; `folder` as in `with_dtype`."""
    begun = begun_in(folder) if folder is not None and model.dtype == "auto" else None
    return _told(begun or model.checkpoint.dtype, model.dtype, begun)


def begun_in(folder: Path) -> str | None:
    """The dtype of the runs in a folder that have measured or trained something; None where there are none."""
    below = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/manifest.json"))]
    for run in (folder, *below):
        if any((run / name).exists() for name in MADE):
            with suppress(OSError, ValueError, LookupError):  # the exactness set still refuses what would mix
                found: str = read_json(run / "manifest.json")["dtype"]
                return found
    return None


def _told(name: str, asked: str, begun: str | None) -> WeightsDtype:
    from keeptune.models.device import find_device
    from keeptune.models.precision import fastest_dtype, has_units

    device = find_device()
    units, here = has_units(device), "this GPU" if device.type == "cuda" else "this processor"
    if asked != "auto":
        why, remedy = "the recipe says so", "`dtype: auto` takes float32 here (--set model.dtype=auto)."
    elif begun not in (None, str(fastest_dtype(device)).removeprefix("torch.")):
        why, remedy = "as this run was begun", "A run with another --output would begin in float32."
    else:
        return WeightsDtype(name, f"{here} has units for it" if units else f"{here} has no units for bfloat16")
    if units or name != "bfloat16":
        return WeightsDtype(name, why)
    return WeightsDtype(name, f"{why}; {here} has no units for it, and {SLOW}", remedy)
