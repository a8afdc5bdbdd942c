"""`keeptune study NAME RECIPE`: a thin command over the studies shelf; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: keeptune study selection recipe.yaml --output runs/selection --with shares=[0.05,0.2]"


def study(
    name: Annotated[str, typer.Argument(help="A study: keeptune list studies.")],
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")],
    output: Annotated[Path | None, typer.Option("--output", help="The study's folder.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Replace a setting of the recipe: a.b=c.")] = None,
    choices: Annotated[
        list[str] | None, typer.Option("--with", help="A setting of the study, seeds=3; see: keeptune show NAME.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")] = False,
) -> None:
    """Runs a grid of small runs and says what it shows. A second time it resumes."""
    from keeptune.studies._session import run_study

    result = run_study(name, recipe, output, settings or [], choices or [], quiet=json_)
    print(json.dumps(result, ensure_ascii=False, allow_nan=False) if json_ else result["text"])
