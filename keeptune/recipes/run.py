"""`keeptune run`: a recipe by its name or file, run with every seed of its proof, and what is said of it at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeptune.core.typed import typed
from keeptune.recipes.at_hand import require_at_hand
from keeptune.recipes.guarding import budget_settings, told
from keeptune.recipes.recipe import load_recipe, recipe_path
from keeptune.stages._progress import Progress


def run(
    recipe: str | Path,
    *,
    output: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs a recipe from Python and returns its certificate; `overrides` are dotted keys with their values."""
    settings = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    result = run_recipe(str(recipe), Path(output) if output else None, settings, quiet=quiet)
    certificate: dict[str, Any] = result["certificate"]
    return certificate


def run_recipe(
    recipe: str,
    output: Path | None,
    settings: list[str],
    *,
    fork: bool = False,
    weights_only: bool = False,
    skip_base: bool = False,
    budget: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """What `keeptune run` does; the result has `verdict`, `certificate`, `folder` and a `text` for people."""
    loaded, recipe_folder = load_recipe(recipe, [*settings, *budget_settings(budget)]), recipe_path(recipe).parent
    require_at_hand(loaded, recipe_folder)

    # What follows needs torch: a fault of the recipe is told before it is imported.
    from keeptune.recipes.execute import Options
    from keeptune.recipes.seeds import execute_seeds

    folder = output or Path("runs") / loaded.name
    options = Options(fork, weights_only, skip_base, typed("keeptune", *sys.argv[1:]))
    certificate = execute_seeds(loaded, folder, recipe_folder, options=options, progress=Progress(quiet=quiet))
    return finished(folder, certificate)


def finished(folder: Path, certificate: dict[str, Any] | None) -> dict[str, Any]:
    """The result of a run as the command line prints it."""
    from keeptune.recipes.within_context import left_out_lines
    from keeptune.report.run_files import talked_to
    from keeptune.report.sentence import verdict_sentence
    from keeptune.report.words import SIGN

    if certificate is None:
        text = "\n".join([f"done, without a proof: {folder}", *told(folder)])
        return {"folder": str(folder), "verdict": None, "certificate": None, "text": text}
    verdict = certificate["verdict"]
    lines = [
        f"{SIGN[verdict]} {verdict}  {verdict_sentence(certificate)}",
        *left_out_lines(certificate),
        *told(folder),
        "",
        f"certificate  {folder / 'certificate.html'}",
    ]
    talk = talked_to(folder, certificate)
    words = ("compare", folder, "OTHER_RUN") if talk is None else ("chat", folder / talk)
    lines.append(f"next         {typed('keeptune', *words)}")
    return {"folder": str(folder), "verdict": verdict, "certificate": certificate, "text": "\n".join(lines)}
