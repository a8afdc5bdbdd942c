"""The command line: parse, call, print. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from keeptune import auto_command, data_commands, model_commands, shelf_commands, study_commands
from keeptune.core.errors import VERDICT_EXIT, KeeptuneError, RecipeError
from keeptune.core.machine import calm_process

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Adapts a pretrained language model to a task and proves what the model kept.",
    epilog="Start with: keeptune demo",
    context_settings={"max_content_width": 120},
)

app.add_typer(data_commands.app, name="data")

BUG_EXIT = 70

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Output = Annotated[Path, typer.Option("--output", help="The run folder.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting of the recipe: a.b=c.")]


def _version(asked: bool) -> None:
    if asked:
        from keeptune import __version__

        print(f"keeptune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and end.")
    ] = False,
) -> None:
    """Takes what stands before any command."""


@app.command(epilog="Example: keeptune doctor")
def doctor(json_: Json = False) -> None:
    """Says what this machine has. What is missing stands beside the one command that adds it."""
    from keeptune.core.machine import device_finding, dtype_finding, findings, kernels_finding

    lines = findings(Path("runs"))
    if not json_:
        for line in lines:
            _finding(line)
    from keeptune.engine.kernels import all_there
    from keeptune.models.device import find_device
    from keeptune.recipes.recipe import Model
    from keeptune.recipes.weights_dtype import dtype_of

    device = find_device()
    kernels = kernels_finding(device.type, compiled=all_there(device))
    more = [device_finding(), dtype_finding(str(dtype_of(Model()))), kernels]
    if json_:
        _print_json({"findings": [line.to_dict() for line in [*lines, *more]]})
    else:
        for line in more:
            _finding(line)
        print("\nNext: keeptune demo")
    if not all(line.ok for line in lines):
        raise typer.Exit(4)


@app.command(epilog="Example: keeptune demo --output runs/demo")
def demo(
    output: Output = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Seeds per recipe.")] = 1,
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Runs the main job on the embedded model and task, offline. It ends in certificates and a page."""
    from keeptune.recipes.demo import run_demo

    result = run_demo(output, seeds=seeds, settings=settings or [], quiet=json_)
    _print_json(result) if json_ else print(result["text"])


@app.command(epilog="Example: keeptune init banking77.jsonl.gz --model pocket --output recipe.yaml")
def init(
    data: Annotated[
        Path,
        typer.Argument(
            help="A data file (jsonl, json, csv, tsv, parquet, xml, conllu, txt; also .gz), or hub:OWNER/NAME."
        ),
    ],
    model: Annotated[str, typer.Option(help="pocket, a model folder, or a hub id.")] = "pocket",
    output: Annotated[Path, typer.Option("--output", help="Where the recipe is written.")] = Path("recipe.yaml"),
    json_: Json = False,
) -> None:
    """Guesses a data file's format and writes a commented recipe."""
    from keeptune.recipes.start import write_recipe

    result = write_recipe(data, model, output)
    _print_json(result) if json_ else print(result["text"])


app.command(epilog="Example: keeptune auto banking77.jsonl.gz --model pocket --output runs/auto")(auto_command.auto)


@app.command(epilog="Example: keeptune check recipe.yaml --row 3")
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")],
    row: Annotated[int | None, typer.Option(min=0, help="Show this row's tokens: learned, seen, cut.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the same view as a page.")] = None,
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Shows what a recipe would learn, before any compute. Every row of every source is read."""
    from keeptune.recipes.check import check_recipe

    result, fault = check_recipe(recipe, settings or [], row, html, quiet=json_)
    if not json_:
        print(result["text"], flush=True)
    if fault is not None:
        raise fault
    if json_:
        _print_json(result)


@app.command(epilog="Example: keeptune plan recipe.yaml")
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")],
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Forecasts memory, time, disk, and the power of the proof. Every method is compared; no weight is read."""
    from keeptune.recipes.plan import plan_recipe

    result = plan_recipe(recipe, settings or [])
    _print_json(result) if json_ else print(result["text"])


@app.command(epilog="Example: keeptune run recipe.yaml --output runs/first --set stages[0].epochs=1")
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")],
    output: Annotated[Path | None, typer.Option("--output", help="The run folder; runs/NAME by default.")] = None,
    settings: Settings = None,
    fork: Annotated[bool, typer.Option(help="Start anew in this folder although the recipe differs.")] = False,
    weights_only: Annotated[bool, typer.Option(help="Resume from weights whose optimiser state is gone.")] = False,
    skip_base: Annotated[bool, typer.Option(help="Do not measure the base; the run ends without a proof.")] = False,
    budget: Annotated[
        list[str] | None, typer.Option(help="Stop when this much is lost: forget=2pt, bits=1%, kl=0.05.")
    ] = None,
    json_: Json = False,
) -> None:
    """Trains between two measurements and ends in a certificate. Started again, it resumes where it stopped."""
    from keeptune.recipes.run import run_recipe

    result = run_recipe(
        recipe, output, settings or [], fork=fork, weights_only=weights_only, skip_base=skip_base,
        budget=budget or [], quiet=json_,
    )  # fmt: skip
    _finish(result, json_)


@app.command(epilog="Example: keeptune prove base-folder tuned-folder --suite embedded --output runs/proof")
def prove(
    before: Annotated[
        str, typer.Argument(help="The model before: a folder, a hub id, pocket, a run, or http://host/v1#name.")
    ],
    after: Annotated[str, typer.Argument(help="The model after, whoever trained it.")],
    output: Output = Path("runs/proof"),
    target: Annotated[Path | None, typer.Option(help="A data file whose answers are the target task.")] = None,
    metric: Annotated[
        str, typer.Option(help="label_accuracy, exact_match, token_f1, rouge_1, rouge_2 or rouge_l.")
    ] = "exact_match",
    ood: Annotated[Path | None, typer.Option(help="A data file of the task's kind from elsewhere.")] = None,
    suite: Annotated[str, typer.Option(help="embedded, t1, t2, or a suite file.")] = "embedded",
    margins: Annotated[Path | None, typer.Option(help="A YAML file: pooled, task, corpus, leak.")] = None,
    train_data: Annotated[Path | None, typer.Option(help="What it was trained on: leaks are looked for.")] = None,
    diagnose: Annotated[
        bool, typer.Option(help="Tell form, recoverable loss and knowledge apart; minutes more.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take an adapter of another base; answers may be noise.")
    ] = False,
    sequential: Annotated[bool, typer.Option(help="Ask AFTER in parts; stop when the verdict stands.")] = False,
    lang: Annotated[str, typer.Option(help="Language of the page: en or zh.")] = "en",
    json_: Json = False,
) -> None:
    """Certifies any two checkpoints, whoever trained them."""
    from keeptune.recipes.proof import prove_pair

    result = prove_pair(
        before, after, output, target=target, metric=metric, ood=ood, suite=suite, margins=margins,
        train_data=train_data, diagnose=diagnose, force=force, sequential=sequential, lang=lang, quiet=json_,
    )  # fmt: skip
    _finish(result, json_)


@app.command(epilog="Example: keeptune pairwise pocket runs/first --prompts requests.txt --judge judge-folder")
def pairwise(
    before: Annotated[str | None, typer.Argument(help="The model before.")] = None,
    after: Annotated[str | None, typer.Argument(help="The model after.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one request a line.")] = None,
    judge: Annotated[str | None, typer.Option(help="A local model that judges; without it a sheet for people.")] = None,
    votes: Annotated[Path | None, typer.Option(help="The folder of a sheet that people have filled in.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Most requests.")] = 200,
    output: Output = Path("runs/pairwise"),
    json_: Json = False,
) -> None:
    """Counts wins, ties and losses of two models' answers. A model judges in both orders, or people do, blind."""
    from keeptune.recipes.pairwise import pairwise_command

    result = pairwise_command(before, after, prompts, output, judge=judge, votes=votes, most=most)
    _print_json(result) if json_ else print(result["text"])


@app.command(epilog="Example: keeptune compare runs/sft runs/promot --output runs/compare.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[Path, typer.Option("--output", help="The page.")] = Path("runs/compare.html"),
    json_: Json = False,
) -> None:
    """Sets runs side by side, also at a matched target score."""
    from keeptune.recipes.compare import compare_runs

    result = compare_runs(runs, output)
    _print_json(result) if json_ else print(result["text"])


app.command("study", epilog=study_commands.EXAMPLE)(study_commands.study)


@app.command(
    epilog="Example: keeptune probe pocket --data train.conllu --dev dev.conllu --test test.conllu --rows 2000"
)
def probe(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="A model or a run; or two, before and after.")
    ],
    data: Annotated[Path, typer.Option(help="A treebank (conllu, jsonl), or requests with one-label answers.")],
    dev: Annotated[Path | None, typer.Option(help="Decides when a probe stops; else a tenth of --data.")] = None,
    test: Annotated[Path | None, typer.Option(help="What is scored; else a tenth of --data.")] = None,
    task: Annotated[str, typer.Option(help="upos, xpos, deprel, feats.Number, ...; edges; label.")] = "upos",
    kind: Annotated[
        list[str] | None,
        typer.Option("--probe", help="linear, linear:rank=10, mlp:depth=2, bilinear; several may be named."),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(min=0, help="Only this layer; may be repeated.")] = None,
    pooling: Annotated[str, typer.Option(help="Of whole texts (label): mean, cls or last.")] = "mean",
    rows: Annotated[int | None, typer.Option(min=1, help="Most texts of each part.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each probe.")] = 1,
    codelength: Annotated[bool, typer.Option(help="Send the answers too, with the first seed: twice its time.")] = True,
    output: Output = Path("runs/probe"),
    json_: Json = False,
) -> None:
    """Probes what each layer holds, with control tasks. Accuracy, selectivity, codelength."""
    from keeptune.recipes.probing import asked_of, probe_models

    files = {name: file for name, file in (("train", data), ("dev", dev), ("test", test)) if file is not None}
    asked = asked_of(task, kind or [], layer, pooling, seeds=seeds, codelength=codelength)
    result = probe_models(models, files, asked, output, rows=rows, quiet=json_)
    _print_json(result) if json_ else print(result["text"])


@app.command(epilog="Example: keeptune chat runs/first")
def chat(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this once and end, instead of reading lines.")] = None,
    json_: Json = False,
) -> None:
    """Shows the base's answer beside the adapted model's."""
    from keeptune.recipes.chat import answers, conversation

    if prompt is None:
        conversation(folder)
        return
    result = answers(folder, prompt)
    _print_json(result) if json_ else print("\n".join(f"{name:>8}  {text}" for name, text in result.items()))


app.command(epilog="Example: keeptune merge runs/first --output merged")(model_commands.merge)
app.command(epilog="Example: keeptune export runs/first --output exported")(model_commands.export)


app.command("list", epilog="Example: keeptune list methods --json")(shelf_commands.list_)
app.command(epilog="Example: keeptune show sft")(shelf_commands.show)


def main() -> None:
    """Runs the command line; every error that a user can cause ends without a traceback."""
    calm_process()
    arguments = sys.argv[1:]
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except KeeptuneError as error:
        _complain(error, as_json)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(75)
    except Exception as error:
        usage = _usage_error(error)
        if usage is not None:
            _complain(usage, as_json)
            sys.exit(2)
        traceback.print_exc()
        bug = KeeptuneError(
            f"{type(error).__name__}: {error}", code="E-BUG", fix="Please report it with the traceback."
        )
        _complain(bug, as_json)
        sys.exit(BUG_EXIT)


def _usage_error(error: Exception) -> RecipeError | None:
    """A complaint of the argument parser, in our form; None when the error is something else."""
    if not hasattr(error, "format_message"):
        return None
    text = error.format_message()
    return RecipeError(text + "." * (text[-1:] not in ".?"), code="E-USAGE", fix="See: keeptune --help")


def _complain(error: KeeptuneError, as_json: bool) -> None:
    if as_json:
        _print_json({"error": error.to_dict()})
    else:
        print(f"{error.code}  {error}", file=sys.stderr)


def _finish(result: dict[str, Any], as_json: bool) -> None:
    _print_json(result) if as_json else print(result["text"])
    raise typer.Exit(VERDICT_EXIT.get(result.get("verdict") or "PASS", 0))


def _print_json(plain: Any) -> None:
    print(json.dumps(plain, ensure_ascii=False, allow_nan=False))


def _finding(line: Any) -> None:
    mark = "ok" if line.ok else "!!"
    print(f"{mark}  {line.name:<24} {line.found}" + (f"   -> {line.fix}" if line.fix else ""))


if __name__ == "__main__":
    main()
