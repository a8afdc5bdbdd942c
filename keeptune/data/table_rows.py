"""Rows of CSV, TSV and Parquet: a header names the fields."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from keeptune.core.errors import DataError, MissingDependency
from keeptune.data.json_rows import Row
from keeptune.data.lines import read_lines
from keeptune.data.place import Place

BATCH_ROWS = 256
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


def delimited(stream: BinaryIO, file: str, limit: int, counts: Counter[str], *, separator: str) -> Iterator[Row]:
    """Rows of a table with a header; quoted fields may span lines, and a row's line is the one that it starts on.

    Raises:
        DataError: broken quoting, after which no later row can be found (E-DATA-CSV); two columns of one name; a
            header whose names another separator parts.
    """
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    lines = _parted(_unbroken(stream, file, limit, counts), file, separator)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    started = 1
    try:
        for cells in reader:
            place = Place(file, started)
            started = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                counts["blank"] += 1
            elif header is None:
                header = _header(cells, place)
            elif len(cells) != len(header):
                yield Row(place, _ragged(cells, header, place))
            else:
                yield Row(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise Place(file, started).error(
            f"the table cannot be read from here on ({error}).",
            code="E-DATA-CSV",
            why="A quotation mark that is opened and never closed swallows the rows after it.",
            fix='Quote the field whole and double the marks inside it: "say ""hello""".',
        ) from error


def parquet(stream: BinaryIO, file: str) -> Iterator[Row]:
    """Rows of a Parquet file; the place's line is the row's number.

    Raises:
        DataError: not a Parquet file, or a truncated one (E-DATA-PARQUET).
        MissingDependency: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", extra="data", needed_for="Reading Parquet files") from error
    on_disk = isinstance(getattr(stream, "raw", None), io.FileIO)
    data = stream if on_disk else io.BytesIO(stream.read())
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(data).iter_batches(batch_size=BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Row(Place(file, number), values)
    except (pyarrow.ArrowException, OSError) as error:
        raise Place(file, number or None).error(
            f"this is not a whole Parquet file ({str(error).splitlines()[0][:80]}).",
            code="E-DATA-PARQUET",
            fix="The file looks truncated or mislabelled: copy or download it again.",
        ) from error


def _unbroken(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[str]:
    for line in read_lines(stream, file, limit, counts):
        if isinstance(line.text, DataError):
            raise line.text
        yield line.text + "\n"


def _parted(lines: Iterator[str], file: str, separator: str) -> Iterator[str]:
    """The lines, unless their first is one column here and names of several by another separator."""
    headed = False
    for number, line in enumerate(lines, start=1):
        if not headed and line.strip():
            headed = True
            other = None if separator in line else next((mark for mark in SEPARATORS if _names(line, mark)), None)
            if other is not None:
                raise Place(file, number).error(
                    f"the header has no {SEPARATORS[separator]} in it, and looks parted by a {SEPARATORS[other]}: "
                    f"{line.strip()[:80]}.",
                    code="E-DATA-CSV",
                    fix="Save the table with commas between its fields as .csv, or with tabs as .tsv.",
                )
        yield line


def _names(line: str, mark: str) -> bool:
    """Whether `mark` parts the line into several words that can be names of columns."""
    words = [word.strip(' "') for word in line.strip().split(mark)]
    return len(words) > 1 and all(word.replace(" ", "_").isidentifier() for word in words)


def _header(cells: list[str], place: Place) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise place.error(f"two columns are called '{twice}'.", code="E-DATA-CSV", key=twice, fix="Rename one of them.")
    return names


def _ragged(cells: list[str], header: list[str], place: Place) -> DataError:
    return place.error(
        f"the row has {len(cells)} fields; the header names {len(header)}: {', '.join(header[:8])}.",
        code="E-DATA-CSV",
        fix="A separator inside a field must be quoted.",
    )
