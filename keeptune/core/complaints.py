"""What pydantic finds wrong, in the user's words: what was expected, what was given, and what would be right.

A setting that may be of several kinds (`all`, or a list) gives one complaint, not one for each kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from keeptune.core.errors import did_you_mean, written

EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "settings, each as `key: value`",
    "model_type": "settings, each as `key: value`",
}
"""What a value of the wrong kind should have been."""
BOUNDS = {
    "greater_than": "it must be greater than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than": "it must be less than {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
    "too_short": "it has too few entries: give {min_length} or more",
    "too_long": "it has too many entries: give {max_length} at most",
    "string_too_short": "it must not be empty",
    "string_pattern_mismatch": "it is not written as it has to be",
    "string_too_long": "it may have {max_length} letters at most",
}
"""What is wrong with a value of the right kind."""
DESCRIBED = {*EXPECTED, "string_pattern_mismatch"}
"""Where what the setting is says what would be right."""
OWN = ("unknown_key", "unknown_name", "invalid_value")
"""Types of complaints that have their words already."""

KIND = re.compile(r"str|int|bool|float|constrained-\w+|(literal|list|dict|tuple|function-wrap)\[.*")
"""How pydantic calls the kinds of a setting in a place."""

Line = Mapping[str, Any]


def complaints(lines: Sequence[Line], settings: type[BaseModel], name: str) -> list[InitErrorDetails]:
    """The faults of one group of settings, each with `text` and, where it is known, `fix`.

    Args:
        lines: as pydantic tells them, those of inner groups in words already.
        settings: the class of the group.
        name: what a recipe calls the group.
    """
    return [_in_words(line, settings, name) for line in _one_kind(lines, settings)]


def sentence(line: Line) -> str:
    """One of `complaints` as a sentence, with the value that was given."""
    text, value = (line["ctx"]["text"] if line["type"] in OWN else _plain(line)).rstrip("."), line["input"]
    plain = line["type"] == "invalid_value" and not isinstance(value, (dict, list, BaseModel))
    return f"{text} (given: {_short(value)})." if plain else f"{text}."


def _in_words(line: Line, settings: type[BaseModel], name: str) -> InitErrorDetails:
    kind, place = line["type"], line["loc"]
    if kind in OWN:
        return _complaint(line, line["ctx"]["text"], line["ctx"].get("fix", ""), kind)
    if kind == "extra_forbidden" and len(place) == 1:
        text = f"'{place[0]}' is not a setting of {settings.__name__}."
        return _complaint(line, text, did_you_mean(str(place[0]), settings.model_fields), "unknown_key")
    says = _says(settings.model_fields.get(str(place[0])) if place else None)
    if kind == "missing" and isinstance(place[-1], int):
        return _complaint(line, "a value is missing", says and f"What it is: {says}.")
    if kind == "missing":
        it_is = f": {says}" if says else ""
        return _complaint(line, f"it is missing, and {name} needs it", f"Add `{place[-1]}`{it_is}.")
    text, fix = _words_of(line, settings)
    return _complaint(line, text, fix or (f"What it is: {says}." if says and kind in DESCRIBED else ""))


def _words_of(line: Line, settings: type[BaseModel]) -> tuple[str, str]:
    """What is wrong with a value, and what to write instead where that can be told from the value."""
    kind, value, context = line["type"], line["input"], line.get("ctx", {})
    if kind == "literal_error":
        return f"expected {context['expected']}", _nearest(value, context["expected"])
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}", _rewritten(kind, value, settings)
    if kind in BOUNDS:
        return BOUNDS[kind].format(**context), ""
    return _plain(line), ""


def _plain(line: Line) -> str:
    """What pydantic says: the words of one of our checks as they are, its own as they go on behind a place."""
    text = str(line["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text if line["type"] in ("value_error", "assertion_error") else text[:1].lower() + text[1:]


def _complaint(line: Line, text: str, fix: str = "", kind: str = "invalid_value") -> InitErrorDetails:
    words = PydanticCustomError(kind, "{text}", {"text": text, "fix": fix, "was": _was(line)})
    return {"type": words, "loc": line["loc"], "input": line["input"]}


def _one_kind(lines: Sequence[Line], settings: type[BaseModel]) -> Iterator[Line]:
    """The lines, with those of the kinds that a setting may be of as one, or as those of the kind that was meant."""
    for key, group in groupby(lines, key=lambda line: line["loc"][:1]):
        found = list(group)
        field = settings.model_fields.get(str(key[0])) if key else None
        kinds = [list(part) for _, part in groupby(found, key=lambda line: line["loc"][1:2])]
        if field is None or not _of_several_kinds(field) or not all(map(_names_kind, found)):
            yield from found
            continue
        untagged = [[{**line, "loc": (*key, *line["loc"][2:])} for line in part] for part in kinds]
        meant = [part for part in untagged if not all(_is_of_other_kind(line) for line in part)]
        if meant:
            yield from min(meant, key=len)
        else:
            *first, last = dict.fromkeys(word for part in untagged for word in _expected(part[0]).split(" or "))
            text = f"expected {', '.join(first)} or {last}" if first else f"expected {last}"
            fix = f"What it is: {_says(field)}." if _says(field) else ""
            context = {"text": text, "fix": fix}
            yield {"type": "invalid_value", "loc": key, "input": found[0]["input"], "ctx": context}


def _of_several_kinds(field: FieldInfo) -> bool:
    """Whether a setting may be of more than one kind beside null."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
    return sum(kind is not type(None) for kind in kinds) > 1


def _names_kind(line: Line) -> bool:
    """Whether pydantic has put a kind behind the setting's name, as it does unless the setting has its own check."""
    return len(line["loc"]) > 1 and isinstance(line["loc"][1], str) and KIND.fullmatch(line["loc"][1]) is not None


def _is_of_other_kind(line: Line) -> bool:
    """Whether the value itself, and no part of it, is of another kind than this one."""
    return len(line["loc"]) == 1 and _was(line) in (*EXPECTED, "literal_error")


def _expected(line: Line) -> str:
    return str(line["ctx"]["expected"]) if line["type"] == "literal_error" else EXPECTED[_was(line)]


def _was(line: Line) -> str:
    """The type that pydantic gave it."""
    return str(line["ctx"].get("was", "") if line["type"] in OWN else line["type"])


def _says(field: FieldInfo | None) -> str:
    return (field.description or "").rstrip(".") if field else ""


def _nearest(value: Any, expected: str) -> str:
    known = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    return near.partition(" Known:")[0] if near.startswith("Did") else ""


def _rewritten(kind: str, value: Any, settings: type[BaseModel]) -> str:
    """How a value of the wrong kind is written as the right one."""
    if kind == "model_type":
        named = isinstance(value, str) and "name" in settings.model_fields
        return f"Write {{name: {value}}}." if named else did_you_mean("", settings.model_fields)
    if kind == "list_type" and isinstance(value, dict):
        return "Begin each entry with a dash."
    if kind == "list_type" and isinstance(value, (str, int, float)):
        return f"Write [{written(value)}]."
    return "Put it in quotes." if kind == "string_type" and isinstance(value, (int, float)) else ""


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value) if isinstance(value, str) else written(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
