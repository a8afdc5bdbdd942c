"""The rows of a data file, whatever its type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from keeptune.core.errors import DataError
from keeptune.data.json_rows import Row, json_array, json_lines, json_object
from keeptune.data.lines import read_lines, too_large
from keeptune.data.place import Place
from keeptune.data.source_file import kind_of, open_source, refuse_irregular, unzipping
from keeptune.data.table_rows import delimited, parquet
from keeptune.data.treebank_rows import sentences
from keeptune.data.xml_rows import xml_rows

PEEK_BYTES = 4096


def read_rows(path: Path, limit: int, counts: Counter[str], *, per_line: bool = False) -> Iterator[Row]:
    """Rows of `path` in order; row faults are values, file faults are raised.

    Args:
        path: a regular file; its ending, before `.gz`, says the type. Arrays and JSON Lines are told apart by content.
        limit: largest row in bytes.
        counts: `blank`, `bom` and `crlf` are added to.
        per_line: a text file is one row a line, `{"text": line}`, instead of one row.

    Raises:
        DataError: see `source_file`, `lines`, `json_rows`, `table_rows`.
    """
    refuse_irregular(path)
    kind, file = kind_of(path), str(path)
    with open_source(path) as stream, unzipping(path):
        if kind in ("json", "jsonl"):
            yield from _json(stream, file, limit, counts, one_object=kind == "json")
        elif kind in ("csv", "tsv"):
            yield from delimited(stream, file, limit, counts, separator="," if kind == "csv" else "\t")
        elif kind == "parquet":
            yield from parquet(stream, file)
        elif kind == "xml":
            yield from xml_rows(stream, file, limit)
        elif kind == "conllu":
            yield from sentences(stream, file, limit, counts)
        elif per_line:
            yield from _text_lines(stream, file, limit, counts)
        else:
            yield from _whole_text(stream, file, limit, counts)


def _json(stream: BinaryIO, file: str, limit: int, counts: Counter[str], *, one_object: bool) -> Iterator[Row]:
    """An array, one object over several lines (in `.json` files only), or an object a line."""
    if _opens_array(stream):
        return json_array(stream, file, limit, counts)
    if one_object and _opens_object(stream):
        return json_object(stream, file, counts)
    return json_lines(stream, file, limit, counts)


def _opens_object(stream: BinaryIO) -> bool:
    """Whether the first line opens an object and does not close it."""
    peek = getattr(stream, "peek", None)
    start: bytes = peek(PEEK_BYTES) if peek else b""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")[0].strip() == b"{"


def _opens_array(stream: BinaryIO) -> bool:
    peek = getattr(stream, "peek", None)
    start: bytes = peek(PEEK_BYTES) if peek else b""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _text_lines(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Row]:
    for line in read_lines(stream, file, limit, counts):
        if isinstance(line.text, str) and not line.text.strip():
            counts["blank"] += 1
        else:
            values = line.text if isinstance(line.text, DataError) else {"text": line.text}
            yield Row(Place(file, line.number), values)


def _whole_text(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Row]:
    parts, size = [], 0
    for line in read_lines(stream, file, limit, counts):
        if isinstance(line.text, DataError):
            raise line.text
        parts.append(line.text + "\n" * line.ended)
        size += len(parts[-1].encode())
        if size > limit:
            raise too_large(Place(file, 1), limit)
    if "".join(parts).strip():
        yield Row(Place(file, 1), {"text": "".join(parts)})
