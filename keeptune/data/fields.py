"""Reading one text field of a row: present, text, encodable, not empty; anything else is refused with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keeptune.core.errors import DataError
from keeptune.data.place import Place

UNENCODABLE = re.compile("[\x00\ud800-\udfff]")
CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
REPLACEMENT = "\ufffd"


def required_text(row: Mapping[str, Any], key: str, place: Place, *, setting: str | None = None, part: str) -> str:
    """The text at `key`, which must hold something other than white space.

    Args:
        row: the row as parsed.
        key: column to read.
        place: for the complaint.
        setting: the format's setting that names this column.
        part: what the text is to the model, `prompt` or `answer`.

    Raises:
        DataError: missing (E-DATA-KEY), null (E-DATA-NULL), not text (E-DATA-TYPE), not encodable (E-DATA-TEXT),
            empty (E-DATA-EMPTY).
    """
    if key not in row:
        raise place.missing(row, key, setting)
    text = as_text(row[key], key, place)
    if not text.strip():
        raise empty(text, key, place, part)
    return text


def optional_text(row: Mapping[str, Any], key: str, place: Place) -> str:
    """The text at `key`, or an empty string when the row has none, null or white space there."""
    if row.get(key) is None:
        return ""
    text = as_text(row[key], key, place)
    return text if text.strip() else ""


def as_text(value: Any, key: str, place: Place) -> str:
    """`value` when it is text that UTF-8 can hold; numbers are not turned into text behind the user's back."""
    if value is None:
        raise place.error(
            f"'{key}' is null.",
            code="E-DATA-NULL",
            key=key,
            fix="Fill it in, delete the row, or allow it with `skip_bad`.",
        )
    if isinstance(value, (dict, list, tuple)):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise place.error(
            f"'{key}' holds {kind} where text is expected.",
            code="E-DATA-TYPE",
            key=key,
            fix="Conversations (lists of turns) are read by `format: messages`.",
        )
    if not isinstance(value, str):
        raise place.error(
            f"'{key}' holds {value!r} ({type(value).__name__}), not text.",
            code="E-DATA-TYPE",
            key=key,
            fix=f'Write it as text: "{value}".',
        )
    return checked(value, key, place)


def checked(text: str, key: str, place: Place) -> str:
    """`text`, unless it holds a NUL or half of a surrogate pair, which no tokenizer can take."""
    if "\x00" not in text and text.isascii():  # most texts: looked through once, by the machine
        return text
    found = UNENCODABLE.search(text)
    if found:
        point = ord(found.group())
        name = "a NUL character" if point == 0 else f"half of a surrogate pair (U+{point:04X})"
        raise place.error(
            f"'{key}' holds {name} at character {found.start() + 1}.",
            code="E-DATA-TEXT",
            key=key,
            why="The text was damaged when the file was written.",
            fix="Repair or delete the row.",
        )
    return text


def empty(text: str, key: str, place: Place, part: str) -> DataError:
    """The complaint about a prompt or an answer without content (E-DATA-EMPTY)."""
    state = "holds only white space" if text else "is empty"
    why = "The model would learn to answer with silence." if part == "answer" else f"A row needs its {part}."
    fix = "Delete the row, or allow it to be left out with `skip_bad: N`."
    return place.error(f"'{key}' {state}.", code="E-DATA-EMPTY", key=key, why=why, fix=fix)
