"""`--set a.b=c`: one setting of a recipe replaced from the command line."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.errors import RecipeError
from keeptune.recipes.yaml_file import parse_yaml

_PART = re.compile(r"[^.\[\]]+|\[\d+\]")


def with_overrides(plain: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """A copy of a recipe's plain data with each `key=value` applied; values are read as YAML.

    A key may go through lists by index (`stages[0].method.rank=8`) or by a member's id or name
    (`stages.train.epochs=3`). A method written by its name alone becomes a mapping when a setting of it is given.

    Raises:
        RecipeError: no `=`, or the path leads nowhere (E-USAGE-SET).
    """
    changed = deepcopy(plain)
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not mark or not key.strip():
            raise _wrong(setting, "expected key=value, for example --set seed=3.")
        value, _ = parse_yaml(text, "--set") if text.strip() else (None, {})
        _place(changed, [part.strip("[]") for part in _PART.findall(key.strip())], value, setting)
    return changed


def _place(inside: Any, parts: list[str], value: Any, setting: str) -> None:
    for position, part in enumerate(parts[:-1]):
        inside = _step(inside, part, parts[position + 1], setting)
    last = parts[-1]
    if isinstance(inside, list):
        inside[_index(inside, last, setting)] = value
    elif isinstance(inside, dict):
        inside[last] = value
    else:
        raise _wrong(setting, f"'{parts[-2]}' is a plain value; it has no setting '{last}'.")


def _step(inside: Any, part: str, following: str, setting: str) -> Any:
    if isinstance(inside, list):
        index: Any = _index(inside, part, setting)
        if isinstance(inside[index], str):
            inside[index] = {"name": inside[index]}
    elif isinstance(inside, dict):
        index = part
        if isinstance(inside.get(part), str) and following != "":
            inside[part] = {"name": inside[part]}
        inside.setdefault(part, {})
    else:
        raise _wrong(setting, f"nothing in the recipe is called '{part}'.")
    return inside[index]


def _index(items: list[Any], part: str, setting: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    for position, item in enumerate(items):
        if part == item or (isinstance(item, dict) and part in (item.get("id"), item.get("name"))):
            return position
    raise _wrong(setting, f"the list has {counted(len(items), 'entry', 'entries')}, and none is '{part}'.")


def _wrong(setting: str, what: str) -> RecipeError:
    return RecipeError(f"--set {setting}: {what}", code="E-USAGE-SET")
