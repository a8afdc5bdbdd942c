"""What `keeptune merge` and `keeptune export` share: which checkpoint is meant; a folder that appears only whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import MachineError, PlanError, RecipeError
from keeptune.core.files import STAGING, delete, make_folder, rename
from keeptune.recipes.proof import checkpoint_from
from keeptune.recipes.same_outputs import TOLERANCE

MISMATCH = "What was written is thrown away."


def stacked(model: str, adapters: Sequence[str]) -> Checkpoint:
    """A run's result or a model, with adapter folders put on it one after the other.

    Raises:
        RecipeError: a later name is no adapter folder (E-USAGE).
        MachineError: the run is not finished (E-RUN-UNFINISHED).
    """
    checkpoint = checkpoint_from(model)
    for name in adapters:
        above = checkpoint_from(name, over=checkpoint)
        if len(above.adapters) == len(checkpoint.adapters):
            raise RecipeError(
                f"'{name}' is no adapter folder.", code="E-USAGE",
                fix="Give a finished run alone, or a model and then the adapters that stand on it.",
            )  # fmt: skip
        checkpoint = above
    return checkpoint


def written(output: Path, fill: Callable[[Path], Any]) -> Any:
    """Fills a folder beside `output` and gives it that name once it is whole; after an error nothing is left.

    Args:
        output: must not be there, or be an empty folder.
        fill: writes and checks the content; what it returns comes back.

    Raises:
        MachineError: there is something already (E-OUTPUT-EXISTS).
    """
    output = output.absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MachineError(
            "there is something at this place already.", code="E-OUTPUT-EXISTS", where={"file": output},
            fix="Choose another --output, or remove it.",
        )  # fmt: skip
    staging = output.with_name(f"{STAGING}{os.getpid()}-{output.name}")
    make_folder(output.parent)
    make_folder(staging)
    try:
        found = fill(staging)
        if output.is_dir():
            delete(output)
        rename(staging, output)
    finally:
        delete(staging)
    return found


def within(found: float, what: str, code: str) -> float:
    """`found` again, when it is no larger than the tolerance.

    Raises:
        PlanError: it is larger (`code`).
    """
    if not found <= TOLERANCE:
        raise PlanError(
            f"{what} differ by {found:.2g} of the largest value; {TOLERANCE:g} is allowed.", code=code, why=MISMATCH,
            fix="Keep the adapter as it is, and report this with the method and the model family.",
        )  # fmt: skip
    return found
