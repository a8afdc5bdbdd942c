"""`keeptune merge` and `keeptune export`: models for other programs; parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeptune.data_commands import Json, show

Model = Annotated[str, typer.Argument(help="A finished run; or a model: a folder, a hub id, pocket.")]
Stack = Annotated[list[str] | None, typer.Argument(metavar="[ADAPTER]...", help="Adapter folders on that model.")]
Force = Annotated[bool, typer.Option("--force", help="Take an adapter of another base; outputs may be noise.")]


def merge(
    model: Model,
    adapters: Stack = None,
    output: Annotated[Path, typer.Option("--output", help="The new model folder.")] = Path("merged"),
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float32 or float16; by default that of the run or the model.")
    ] = None,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Folds adapters into a stock model folder. It is compared before it is kept."""
    from keeptune.recipes.merging import merge_checkpoint

    show(merge_checkpoint(model, adapters or (), output, dtype=dtype, force=force), json_)


def export(
    model: Model,
    adapters: Stack = None,
    output: Annotated[Path, typer.Option("--output", help="The new adapter folder.")] = Path("exported"),
    force: Force = False,
    json_: Json = False,
) -> None:
    """Writes an adapter as PEFT's folder. PEFT opens it, and it is compared before it is kept."""
    from keeptune.recipes.exporting import export_adapter

    show(export_adapter(model, adapters or (), output, force=force), json_)
