"""`keeptune data mix`: the rows that each stage of a recipe will draw, in their order, before anything is trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import RecipeError
from keeptune.core.files import atomic_write
from keeptune.recipes.material import Material, gather
from keeptune.recipes.recipe import load_recipe, recipe_path
from keeptune.recipes.selecting import said
from keeptune.recipes.workshop import Workshop
from keeptune.stages._plan import Plan, plan_steps
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train


def mix_recipe(name: str, settings: list[str], output: Path | None = None, *, quiet: bool = False) -> dict[str, Any]:
    """What every train stage draws: shares asked and reached, rows, tokens and passes of each source.

    The batches are those of a run of this recipe; virtual tokens of prompts, of which a batch holds some too, are not
    counted. Sources that the base writes are written, and kept for the run.

    Args:
        name: file or name of the recipe.
        settings: `--set` overrides.
        output: JSON Lines of the rows in the order in which they are seen, each with its stage, step and source.
        quiet: no progress.

    Raises:
        RecipeError: no stage trains on given rows (E-MIX-STAGE), or `output` exists.
        DataError: a file or row cannot be used.
    """
    if output is not None:
        prepare_output(output)
    recipe = load_recipe(name, settings)
    stages = {place: stage for place, stage in enumerate(recipe.stages) if isinstance(stage, Train)}
    if not stages:
        raise RecipeError(
            "no stage of this recipe trains on rows that are given.", code="E-MIX-STAGE", where={"key": "stages"},
            fix="Name a recipe with a stage `train`.",
        )  # fmt: skip
    progress = Progress(quiet=quiet)
    material = gather(recipe, recipe_path(name).parent, Workshop(), recipe.model.checkpoint, progress)
    found, rows = [], list[str]()
    for place, stage in stages.items():
        fitted = stage.fitted(material.train)
        plan = plan_steps(fitted, material.train, recipe.seed, 0)
        label = f"{place + 1} {stage.id or stage.name}"
        found.append({"stage": label, "steps": len(plan), "sources": _sources(fitted, material, plan)})
        rows += _rows(label, material, plan) if output is not None else []
    if output is not None:
        atomic_write(output, "".join(rows))
    result: dict[str, Any] = {"stages": found, "rows": len(rows), "output": None if output is None else str(output)}
    return {**result, "text": _text(result)}


def _sources(stage: Train, material: Material, plan: Plan) -> list[dict[str, Any]]:
    rows, tokens = Counter[str](), Counter[str]()
    for step in range(len(plan)):
        for row in plan.rows(step):
            rows[row.source] += 1
            tokens[row.source] += len(row.tokens)
    return [
        {
            "source": name,
            "there": len(material.train[name].rows),
            "drawn": rows[name],
            "tokens": tokens[name],
            "asked": share,
            "reached": tokens[name] / tokens.total(),
        }
        for name, share in stage.shares.items()
    ]


def _rows(label: str, material: Material, plan: Plan) -> list[str]:
    """Every drawn row as it was read; a piece of a row stands for the whole of it."""
    known = {(name, row.id): row for name, source in material.sources.items() for row in source.train}
    lines = []
    for step in range(len(plan)):
        for row in plan.rows(step):
            example = known.get((row.source, row.id)) or known[row.source, row.id.rsplit("#", 1)[0]]
            place = {"stage": label, "step": step + 1, "source": row.source}
            lines.append(json.dumps({"id": row.id, **said(example), **place}, ensure_ascii=False) + "\n")
    return lines


def _text(result: dict[str, Any]) -> str:
    lines = []
    for stage in result["stages"]:
        lines.append(f"stage {stage['stage']}: {counted(stage['steps'], 'step')}")
        titles = ("source", "rows", "drawn", "passes", "tokens", "asked", "reached")
        lines.append("  {:<20} {:>9} {:>9} {:>7} {:>11} {:>7} {:>8}".format(*titles))
        for one in stage["sources"]:
            lines.append(
                f"  {one['source']:<20} {one['there']:>9,} {one['drawn']:>9,} {one['drawn'] / one['there']:>7.2f} "
                f"{one['tokens']:>11,} {one['asked']:>7.1%} {one['reached']:>8.1%}"
            )
    written = f"\n{counted(result['rows'], 'row')} written to {result['output']}" if result["output"] else ""
    return "\n".join(lines) + written
