"""Rows of JSON Lines and of JSON arrays, each with its line; a broken row is a value, so that reading can go on."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from keeptune.core.errors import DataError
from keeptune.data.lines import Line, read_lines, too_large, truncated
from keeptune.data.place import Place

ARRAY_BYTES = 1 << 30
SNIPPET = 24


@dataclass(frozen=True)
class Row:
    """One record, or the reason why there is none."""

    place: Place
    values: Mapping[str, Any] | DataError


def json_lines(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Row]:
    """One object a line; blank lines are accepted and counted."""
    for line in read_lines(stream, file, limit, counts):
        place = Place(file, line.number)
        if isinstance(line.text, DataError):
            yield Row(place, line.text)
        elif not line.text.strip():
            counts["blank"] += 1
        else:
            yield Row(place, parsed(line, place))


def parsed(line: Line, place: Place) -> Mapping[str, Any] | DataError:
    """The object on one line, or E-DATA-JSON / E-DATA-TRUNCATED / E-DATA-TEXT with the column."""
    assert isinstance(line.text, str), "undecodable lines are not parsed"
    try:
        return as_row(json.loads(line.text), place)
    except json.JSONDecodeError as error:
        if not line.ended and stops_early(error):
            return truncated(place, error.colno)
        return broken(error, place)
    except (ValueError, RecursionError) as error:
        return place.error(f"the JSON cannot be held: {error}.", code="E-DATA-JSON", fix="Delete the row.")


def json_array(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Row]:
    """The objects of one top-level array, each with the line that it starts on.

    Raises:
        DataError: the text between two objects is broken, so that no later row can be found.
    """
    data = stream.read(ARRAY_BYTES + 1)
    if len(data) > ARRAY_BYTES:
        raise Place(file).error(
            f"the array is larger than {ARRAY_BYTES} bytes.",
            code="E-DATA-ROWSIZE",
            fix="Write it as JSON Lines (.jsonl).",
        )
    text = _decoded_array(data, file, counts)
    decoder = json.JSONDecoder()
    index, number, counted = _skip(text, text.index("[") + 1), 1, 0
    while index < len(text) and text[index] != "]":
        number += text.count("\n", counted, index)
        counted = index
        place = Place(file, number)
        try:
            value, end = decoder.raw_decode(text, index)
            following = _skip(text, end)
            if following >= len(text) or text[following] not in ",]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, following)
        except json.JSONDecodeError as error:
            found = Place(file, error.lineno)
            raise (truncated(found, error.colno) if stops_early(error) else broken(error, found)) from error
        except (ValueError, RecursionError) as error:
            raise place.error(f"the JSON cannot be held: {error}.", code="E-DATA-JSON") from error
        yield Row(place, too_large(place, limit) if end - index > limit else as_row(value, place))
        index = _skip(text, following + 1) if text[following] == "," else following
    if index >= len(text):
        raise truncated(Place(file, number))


def json_object(stream: BinaryIO, file: str, counts: Counter[str]) -> Iterator[Row]:
    """The one object of a file, over any number of lines.

    Raises:
        DataError: broken, cut or too large.
    """
    data = stream.read(ARRAY_BYTES + 1)
    if len(data) > ARRAY_BYTES:
        raise too_large(Place(file, 1), ARRAY_BYTES)
    text, place = _decoded_array(data, file, counts), Place(file, 1)
    try:
        yield Row(place, as_row(json.loads(text), place))
    except json.JSONDecodeError as error:
        found = Place(file, error.lineno)
        raise (truncated(found, error.colno) if stops_early(error) else broken(error, found)) from error
    except (ValueError, RecursionError) as error:
        raise place.error(f"the JSON cannot be held: {error}.", code="E-DATA-JSON") from error


def as_row(value: Any, place: Place) -> Mapping[str, Any] | DataError:
    """`value` when it is an object, else E-DATA-TYPE."""
    if isinstance(value, dict):
        return value
    text = f"the row is {json.dumps(value, ensure_ascii=True)[:SNIPPET]}, not an object with named fields."
    return place.error(text, code="E-DATA-TYPE", fix='Write {"field": ...} on each line.')


def broken(error: json.JSONDecodeError, place: Place) -> DataError:
    """E-DATA-JSON with the column and the text around it."""
    start, end = max(0, error.pos - SNIPPET), error.pos + SNIPPET
    nul = " The line holds NUL bytes: is the file UTF-16?" if "\x00" in error.doc[start:end] else ""
    near = error.doc[start:end].replace("\n", " ").replace("\x00", "")
    return place.error(
        f"broken JSON ({error.msg}) near: {near}",
        code="E-DATA-JSON",
        column=error.colno,
        fix=f"Repair or delete the row, or allow it to be left out with `skip_bad: N`.{nul}",
    )


def stops_early(error: json.JSONDecodeError) -> bool:
    """Whether the parser wanted more text: an open string, or a fault within the last letters (`tru`, an escape)."""
    rest = error.doc[error.pos :].strip()
    cut_word = any(word.startswith(rest) for word in ("true", "false", "null", "\\u0000"))
    return error.msg.startswith("Unterminated string") or cut_word or error.msg.startswith("Invalid \\u")


def _decoded_array(data: bytes, file: str, counts: Counter[str]) -> str:
    lines = []
    for line in read_lines(io.BytesIO(data), file, ARRAY_BYTES, counts):
        if isinstance(line.text, DataError):
            raise line.text
        lines.append(line.text)
    return "\n".join(lines)


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in " \t\r\n":
        index += 1
    return index
