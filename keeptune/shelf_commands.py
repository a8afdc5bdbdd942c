"""`keeptune list` and `keeptune show`: what stands on the shelves, with its settings, read from the sources alone."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Annotated

import typer

from keeptune.core.declared import Setting, settings_of
from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.shelves import first_line, shelf_folder

SHELVES = {
    "methods": "keeptune.methods",
    "losses": "keeptune.losses",
    "probes": "keeptune.probes",
    "evaluations": "keeptune.evaluations",
    "selectors": "keeptune.selectors",
    "encoders": "keeptune.selectors.encoders",
    "stages": "keeptune.stages",
    "optimizers": "keeptune.stages.optimizers",
    "studies": "keeptune.studies",
    "designs": "keeptune.studies.designs",
    "formats": "keeptune.data.formats",
    "rules": "keeptune.data.curation",
    "verifiers": "keeptune.data.verifiers",
}
RECIPES = Path(__file__).parent / "recipes"
COLUMN, LONGEST = 32, 60
"""Where what a setting says begins; letters of a setting with its default, beyond which that is the next line."""

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


def list_(
    noun: Annotated[
        str, typer.Argument(help="methods, recipes, losses, probes, evaluations, stages, studies, formats or rules.")
    ] = "",
    json_: Json = False,
) -> None:
    """Lists what stands on a shelf."""
    nouns = [*SHELVES, "recipes"]
    if noun and noun not in nouns:
        raise RecipeError(f"there is no shelf called '{noun}'.", code="E-USAGE", fix=did_you_mean(noun, nouns))
    chosen = {name: _summaries(name) for name in ([noun] if noun else nouns)}
    if json_:
        _print_json({key: [{"name": n, "summary": s} for n, s in found.items()] for key, found in chosen.items()})
        return
    for key, found in chosen.items():
        print(key)
        for name, summary in found.items():
            print(f"  {name:<20} {summary}")


def show(
    name: Annotated[str, typer.Argument(help="A recipe, method, loss, stage, study, ...")], json_: Json = False
) -> None:
    """Shows a recipe or a member of a shelf, with all settings."""
    text = described(name)
    _print_json({"name": name, "text": text}) if json_ else print(text)


def described(name: str) -> str:
    """Everything of that name: members of shelves with their settings; behind a recipe, which stays YAML, as comments.

    Raises:
        RecipeError: nothing is called so (E-RECIPE-NAME), with the nearest known name.
    """
    members = [_member(noun, name) for noun in SHELVES if name in _summaries(noun)]
    if name in _summaries("recipes"):
        recipe = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
        comments = ["\n".join(f"# {line}".rstrip() for line in text.splitlines()) for text in members]
        return "\n\n".join([recipe, *comments])
    if members:
        return "\n\n".join(members)
    known = {one for noun in (*SHELVES, "recipes") for one in _summaries(noun)}
    raise RecipeError(f"nothing is called '{name}'.", code="E-RECIPE-NAME", fix=did_you_mean(name, known))


def _member(noun: str, name: str) -> str:
    """What a member's file says of it, and its settings as they would stand in YAML."""
    file = shelf_folder(SHELVES[noun]) / f"{name}.py"
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or name
    settings = [line for setting in settings_of(file) for line in _lines(setting)]
    head = f"settings of {name}, of the shelf {noun}, with their defaults:"
    return "\n".join([about.rstrip(), *(["", head, *settings] if settings else [])])


def _lines(setting: Setting, indent: str = "  ") -> list[str]:
    """A setting with its default, and behind it what it says; those of a group below it."""
    default = "" if setting.inner else _yaml(setting.default)
    said = f"{indent}{setting.name}: {default}".rstrip()
    says = setting.says or setting.kind
    says = says if setting.default else f"{says} (must be given)"
    own = [f"{said:<{COLUMN}}  # {says}"] if len(said) <= LONGEST else [said, f"{'':<{COLUMN}}  # {says}"]
    return [*own, *(line for one in setting.inner for line in _lines(one, f"{indent}  "))]


def _yaml(default: str) -> str:
    """A default as it is written in a recipe, where it is a plain value; else as in the source."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return default
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False).replace('"', "")


def _summaries(noun: str) -> dict[str, str]:
    if noun == "recipes":
        files = sorted(RECIPES.glob("*.yaml"))
        return {file.stem: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for file in files}
    folder = shelf_folder(SHELVES[noun])
    files = sorted(file for file in folder.glob("*.py") if not file.stem.startswith("_"))
    return {file.stem: first_line(file) for file in files}


def _print_json(plain: object) -> None:
    print(json.dumps(plain, ensure_ascii=False, allow_nan=False))
