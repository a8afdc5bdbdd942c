"""`keeptune data ...`: thin commands over data files; parse, call, print."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Builds, curates, selects, dedupes and mixes data.")

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Of whatever is drawn.")]


class Thresholds(Enum):
    """Where the bounds of the rules come from."""

    lima = "lima"
    relative = "relative"


class How(Enum):
    """How synthetic rows are made."""

    self_instruct = "self_instruct"
    evolve = "evolve"
    replay = "replay"


class Prompt(Enum):
    """What is asked."""

    title = "title"
    body = "body"
    both = "both"
    either = "either"


@app.command(epilog="Example: keeptune data curate Posts.xml --thresholds relative --output curated.jsonl")
def curate(
    files: Annotated[list[Path], typer.Argument(help="Dumps or data files; each is an exchange of its own.")],
    output: Annotated[Path, typer.Option("--output", help="Where the kept rows are written.")] = Path("curated.jsonl"),
    thresholds: Annotated[
        Thresholds, typer.Option(help="lima: its numbers; relative: quantiles of each exchange.")
    ] = Thresholds.lima,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A rule's setting: score.least=q0.9.")] = None,
    off: Annotated[list[str] | None, typer.Option(help="A rule that is not asked; may be repeated.")] = None,
    prompt: Annotated[Prompt, typer.Option(help="What is asked, for Stack Exchange.")] = Prompt.either,
    rows: Annotated[int | None, typer.Option(min=1, help="Draw so many of what is kept.")] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the draw among exchanges.")] = 3.0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Keeps the answers that pass LIMA's rules. What each rule removed is shown."""
    from keeptune.recipes.curation import curate_files

    result = curate_files(
        files, output, thresholds=thresholds.value, settings=settings or (), off=off or (), prompt=prompt.value,
        rows=rows, temperature=temperature, seed=seed,
    )  # fmt: skip
    show(result, json_)


@app.command(epilog="Example: keeptune data build plan.yaml --output instructions.jsonl --set hold_out=[inference]")
def build(
    plan: Annotated[Path, typer.Argument(help="YAML: tasks, each with kind, path and columns.")],
    output: Annotated[Path, typer.Option("--output", help="Where the rows are written.")] = Path("instructions.jsonl"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Replace one setting of the plan: a.b=c.")] = None,
    json_: Json = False,
) -> None:
    """Makes instructions of task sets. Ten templates a kind, some inverted, whole kinds held out."""
    from keeptune.recipes.building import build_file

    show(build_file(plan, output, settings or []), json_)


@app.command(epilog="Example: keeptune data evolve tasks.jsonl --how evolve --model ./model --output evolved.jsonl")
def evolve(
    seeds: Annotated[Path | None, typer.Argument(help="Tasks to begin with; replay needs none.")] = None,
    how: Annotated[How, typer.Option(help="New tasks, deeper ones, or what the model says by itself.")] = How.evolve,
    model: Annotated[
        str, typer.Option(help="pocket, a folder, a hub id, or http://127.0.0.1:PORT/v1 of a server here.")
    ] = "pocket",
    output: Annotated[Path, typer.Option("--output", help="Where the rows are written.")] = Path("evolved.jsonl"),
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most rows.")] = 1000,
    max_tokens: Annotated[int, typer.Option(min=8, max=65_536, help="Longest text that is written.")] = 256,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Lets a model of this machine write instructions. What each rule drops is counted."""
    from keeptune.recipes.evolving import evolve_file

    found = evolve_file(seeds, output, how.value, model, rows=rows, seed=seed, max_tokens=max_tokens)
    show(found, json_)


@app.command(epilog="Example: keeptune data select rows.jsonl --by kcenter --share 0.05 --output chosen.jsonl")
def select(
    files: Annotated[list[Path], typer.Argument(help="Data files; each is a source of its own.")],
    by: Annotated[str, typer.Option(help="A selector: keeptune list selectors.")] = "facility_location",
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="How much to keep; else the selector's own.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="How many to keep, instead of a share.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Where the chosen rows are written.")] = Path(
        "selected.jsonl"
    ),
    queries: Annotated[Path | None, typer.Option(help="Examples of the task, for selectors that ask for them.")] = None,
    model: Annotated[str | None, typer.Option(help="pocket, a folder, or a hub id; else words are compared.")] = None,
    encoder: Annotated[str | None, typer.Option(help="How rows become vectors: keeptune list encoders.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A selector's setting: start=first.")] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Chooses rows to train on. The choice stands beside five random ones of its size."""
    from keeptune.recipes.selecting import Wanted, select_files

    wanted = Wanted(by, rows, share, model, encoder, settings or (), seed)
    show(select_files(files, output, wanted, queries=queries), json_)


@app.command(epilog="Example: keeptune data dedupe rows.jsonl --output once.jsonl")
def dedupe(
    files: Annotated[list[Path], typer.Argument(help="Data files; each is a source of its own.")],
    output: Annotated[Path, typer.Option("--output", help="Where the kept rows are written.")] = Path("once.jsonl"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting: keeptune show dedupe.")] = None,
    json_: Json = False,
) -> None:
    """Keeps the first of rows that say nearly the same."""
    from keeptune.recipes.selecting import dedupe_files

    show(dedupe_files(files, output, settings or []), json_)


@app.command(epilog="Example: keeptune data mix recipe.yaml --output drawn.jsonl")
def mix(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")],
    output: Annotated[Path | None, typer.Option("--output", help="Writes the rows in the order they are seen.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=c.")] = None,
    json_: Json = False,
) -> None:
    """Shows what each stage will draw of each source. Rows, tokens, passes, and the shares asked and reached."""
    from keeptune.recipes.mixing import mix_recipe

    show(mix_recipe(recipe, settings or [], output, quiet=json_), json_)


def show(result: dict[str, Any], as_json: bool) -> None:
    """One JSON object, or the text."""
    print(json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else result["text"])
