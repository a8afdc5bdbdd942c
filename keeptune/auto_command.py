"""`keeptune auto DATA`: from a data file to a certificate; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keeptune.core.errors import VERDICT_EXIT


def auto(
    data: Annotated[Path, typer.Argument(help="A data file, as for `keeptune init`.")],
    model: Annotated[str, typer.Option(help="pocket, a model folder, or a hub id.")] = "pocket",
    output: Annotated[Path, typer.Option("--output", help="Folder of the looks, the recipe and the run.")] = Path(
        "runs/auto"
    ),
    goal: Annotated[
        float | None, typer.Option(help="Score wanted on the task, 0.8 for 80%; where the base has it, nothing trains.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="What may be lost: forget=5pt, bits=1%, kl=0.05. Unless given, forget=2pt.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace one setting of the recipe: a.b=c.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")] = False,
) -> None:
    """Goes the whole way, from a data file to a proof. Baselines, short runs, and what fits, each with its reason."""
    from keeptune.recipes.auto import auto as conduct

    result = conduct(data, model, output, goal=goal, budget=budget or [], settings=settings or [], quiet=json_)
    print(json.dumps(result, ensure_ascii=False, allow_nan=False) if json_ else result["text"])
    raise typer.Exit(VERDICT_EXIT.get(result.get("verdict") or "PASS", 0))
