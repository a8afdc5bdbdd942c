"""Reading a YAML file that a stranger may have written: bounded, typed, with a line for every key.

The safe loader alone lets a small file grow without bound through aliases, keeps the last of two equal keys without
a word, and forgets lines. Here events are counted before anything is built, and every refusal names its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from keeptune.core.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_ALIASES = 32
REMEDIES = {
    "\\t": "Indent with spaces, not tabs.",
    "expected <block end>": "Begin the lines of one group in the same column, this one and those before it.",
    "mapping values are not allowed": "Begin the lines of one group in the same column; quote text that has a colon.",
    "could not find expected ':'": "Write each setting as `key: value`.",
    "expected ',' or": "Close the bracket, and put a comma between its entries.",
    "unexpected end of stream": "Close the quotes.",
}
"""What to do about a complaint of the YAML parser that has these words in it."""
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """The plain data of a YAML file and the line (1-based) of each dotted key.

    Raises:
        RecipeError: missing or too large (E-RECIPE-FILE, E-RECIPE-SIZE), not YAML (E-RECIPE-YAML), a tag
            (E-RECIPE-TAG), an equal key twice (E-RECIPE-DUPLICATE), too deep or too many aliases (E-RECIPE-SIZE).
    """
    if not path.is_file():
        raise RecipeError(
            "there is no such recipe file.",
            code="E-RECIPE-FILE",
            where={"file": path},
            fix="Give the path of a YAML file, or a name that `keeptune list recipes` shows.",
        )
    if path.stat().st_size > MAX_BYTES:
        size = path.stat().st_size
        raise _refused(path, None, f"the file has {size:,} bytes; a recipe has at most {MAX_BYTES:,}.", "E-RECIPE-SIZE")
    return parse_yaml(path.read_bytes(), path)


def parse_yaml(text: bytes | str, path: Path | str) -> tuple[Any, dict[str, int]]:
    """As `read_yaml`, for text that is already at hand; `path` is only named in errors."""
    try:
        _count(text, path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        fix = next((said for words, said in REMEDIES.items() if words in str(error.problem)), "")
        raise _refused(path, line, f"this is not YAML: {error.problem}.", "E-RECIPE-YAML", fix) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refused(path, None, f"this is not YAML: {str(error).splitlines()[0]}.", "E-RECIPE-YAML") from None
    lines: dict[str, int] = {}
    return (_build(node, "", path, lines) if node else None), lines


def _count(text: bytes | str, path: Path | str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
        depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
        aliases += isinstance(event, yaml.AliasEvent)
        line = event.start_mark.line + 1 if event.start_mark else None
        if depth > MAX_DEPTH:
            raise _refused(path, line, f"the file nests deeper than {MAX_DEPTH} levels.", "E-RECIPE-SIZE")
        if aliases > MAX_ALIASES:
            raise _refused(path, line, f"the file has more than {MAX_ALIASES} aliases.", "E-RECIPE-SIZE")


def _build(node: yaml.Node, key: str, path: Path | str, lines: dict[str, int]) -> Any:
    lines.setdefault(key, node.start_mark.line + 1)
    if node.tag not in _PLAIN_TAGS:
        line = node.start_mark.line + 1
        fix = "Quote the date." if node.tag.endswith("timestamp") else "Remove it; a recipe holds plain values only."
        raise _refused(path, line, f"the tag or type '{node.tag}' is not allowed here.", "E-RECIPE-TAG", fix)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, path, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, f"{key}[{index}]", path, lines) for index, child in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _mapping(node: yaml.MappingNode, key: str, path: Path | str, lines: dict[str, int]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name_node, child in node.value:
        line = name_node.start_mark.line + 1
        if not isinstance(name_node, yaml.ScalarNode):
            raise _refused(path, line, "a key must be a word.", "E-RECIPE-YAML")
        name = str(name_node.value)  # as it was written: YAML 1.1 would read the key `on` as true
        if name in plain:
            raise _refused(path, line, f"the key '{name}' appears twice.", "E-RECIPE-DUPLICATE", "Keep one of the two.")
        inner = f"{key}.{name}" if key else name
        lines[inner] = line
        plain[name] = _build(child, inner, path, lines)
    return plain


def _refused(path: Path | str, line: int | None, what: str, code: str, fix: str = "") -> RecipeError:
    return RecipeError(what, code=code, where={"file": path, "line": line}, fix=fix)
