"""The demo: plain tuning, ProMoT and the keep recipe on the embedded task, one page at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import Field

from keeptune.core.spec import Spec, validate
from keeptune.recipes.compare import compare_runs
from keeptune.recipes.recipe import FOLDER, load_recipe
from keeptune.recipes.side_by_side import processors, run_side_by_side
from keeptune.recipes.yaml_file import read_yaml
from keeptune.report.words import seconds
from keeptune.stages._progress import Progress


class Comparison(Spec):
    """Recipes to run side by side, each with the settings to change in it."""

    name: str = Field(description="of the comparison")
    quick: list[str] = Field([], description="settings changed in every arm of one seed, as `--set` takes them")
    full: list[str] = Field([], description="the same where an arm has several seeds")
    arms: dict[str, list[str]] = Field(min_length=1, description="recipe to settings, as `--set` takes them")


def run_demo(output: Path, *, seeds: int, settings: list[str], quiet: bool) -> dict[str, Any]:
    """Runs the arms in `output`, two at a time where there are two processors, and writes `output/index.html`."""
    file = FOLDER / "demo.yaml"
    plain, lines = read_yaml(file)
    comparison = validate(Comparison, plain, file=str(file), lines=lines)
    progress, begun = Progress(quiet=quiet), time.monotonic()
    size = comparison.quick if seeds == 1 else comparison.full
    arms = {arm: [*size, *own, *settings, f"proof.seeds={seeds}"] for arm, own in comparison.arms.items()}
    for arm, own in arms.items():
        load_recipe(arm, own)  # what is wrong with a setting is said before anything starts
    folders = {arm: output / arm for arm in arms}
    run_side_by_side(arms, folders, at_once=min(2, processors()), say=progress.say)
    scope = "one seed: these checkpoints" if seeds == 1 else f"{seeds} seeds per recipe"
    result = compare_runs(
        list(folders.values()), output / "index.html", lead=f"keeptune demo · the embedded model and task · {scope}"
    )
    taken = seconds(time.monotonic() - begun)
    text = f"\n{result['text']}\n\nIt took {taken}. Each run has its own certificate.html beside the page."
    return {**result, "seconds": time.monotonic() - begun, "text": text}
