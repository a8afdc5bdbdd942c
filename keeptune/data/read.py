"""Examples of a source: every row is read, kept or named as bad, and the numbers add up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from keeptune.core.digest import file_digest
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.fields import CONTROL, REPLACEMENT
from keeptune.data.formats import FileFormat, Format
from keeptune.data.json_rows import Row
from keeptune.data.lines import too_large
from keeptune.data.place import Place
from keeptune.data.rows import read_rows
from keeptune.data.source_file import locate, refuse_irregular
from keeptune.data.split import OOD, stated_part

NAMED_ROWS = 100
SPLIT_COLUMN = "split"
COUNTS = ("read", "kept", "bad", "blank", "bom", "crlf", "control", "replacement")


@dataclass(frozen=True)
class Reading:
    """What a file gave.

    Attributes:
        examples: the kept rows, in the file's order; ids are unique.
        counts: `read` = `kept` + `bad`; `blank` lines; lines that end in `crlf`; `bom` (0 or 1); rows that hold
            `control` characters or the `replacement` character U+FFFD, the trace of earlier damage.
        digest: SHA-256 of the file as it lies on the disk.
        bad: the complaints, the first 100.
    """

    examples: tuple[Example, ...]
    counts: dict[str, int]
    digest: str
    bad: tuple[DataError, ...] = ()


def read_examples(source: Format, name: str, *, folder: Path | None = None, gather: bool = False) -> Reading:
    """Reads every row of a source.

    Args:
        source: a format with a file.
        name: of the source in the recipe; each Example carries it.
        folder: the recipe's, against which a relative path is read.
        gather: bad rows never stop the reading (for `check`, which lists them all).

    Raises:
        DataError: the file cannot be read; a row is bad and `skip_bad` is used up; no row is left (E-DATA-NOROWS).
    """
    assert isinstance(source, FileFormat), f"{source.name} has no file to read"
    path = locate(source.path, folder)
    refuse_irregular(path)
    digest = file_digest(path)
    refuse_other_content(source, path, digest)
    counts = empty_counts()
    kept: dict[str, Example] = {}
    bad: list[DataError] = []
    for outcome in stream(source, path, counts):
        counts["read"] += 1
        if isinstance(outcome, DataError):
            counts["bad"] += 1
            if not gather and counts["bad"] > source.skip_bad:
                raise _last_straw(outcome, source.skip_bad)
            bad = bad if len(bad) == NAMED_ROWS else [*bad, outcome]
        else:
            counted_marks(outcome, counts)
            unique = _unused(outcome.id, kept)
            kept[unique] = replace(outcome, id=unique, source=name)
    counts["kept"] = len(kept)
    refuse_unshifted(source, path, any(example.part == OOD for example in kept.values()))
    if not counts["read"]:
        raise no_rows(path, counts)
    if not kept and not gather:
        raise Place(str(path)).error("no usable rows.", code="E-DATA-NOROWS", why=f"First: {bad[0]}")
    return Reading(tuple(kept.values()), dict(counts), digest, tuple(bad))


def stream(source: FileFormat, path: Path, counts: Counter[str]) -> Iterator[Example | DataError]:
    """Every row in the file's order, or the complaint about it; one is held at a time.

    Args:
        source: the format.
        path: of a regular file.
        counts: `blank`, `bom` and `crlf` are added to.

    Raises:
        DataError: the file itself cannot be read.
    """
    per_line = bool(getattr(source, "per_line", False))
    for row in source.arrange(read_rows(path, source.row_bytes, counts, per_line=per_line)):
        yield _outcome(source, row)


def _outcome(source: FileFormat, row: Row) -> Example | DataError:
    if isinstance(row.values, DataError):
        return row.values
    if sum(len(value) for value in row.values.values() if isinstance(value, str)) > source.row_bytes:
        return too_large(row.place, source.row_bytes)
    try:
        shifted = source.is_shifted(row.values, row.place)
        part = OOD if shifted else stated_part(row.values.get(SPLIT_COLUMN))
        example = source.read_row(row.values, row.place)
        return example if example.part == part else replace(example, part=part)
    except DataError as error:
        return error


def _unused(own: str, taken: Container[str]) -> str:
    """`own`, or `own#2`, `own#3`, ... when an earlier row has it."""
    names = itertools.chain([own], (f"{own}#{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def empty_counts() -> Counter[str]:
    """Every count of a reading, at 0."""
    return Counter(dict.fromkeys(COUNTS, 0))


def refuse_other_content(source: FileFormat, path: Path, digest: str) -> None:
    """Raises E-DATA-CHANGED when the recipe pins the file's SHA-256 and the file has another."""
    if source.sha256 and not digest.startswith(source.sha256.lower()):
        raise Place(str(path)).error(
            f"the file's SHA-256 is {digest[:12]}..., and the recipe pins {source.sha256[:12]}...",
            code="E-DATA-CHANGED",
            key="sha256",
            why="The file has changed since it was checked.",
            fix="Check it again and pin the new digest, or bring the old file back.",
        )


def refuse_unshifted(source: FileFormat, path: Path, found: bool) -> None:
    """Raises E-DATA-SHIFT when the source says which rows are out of distribution and no row is."""
    if source.shifted and not found:
        raise Place(str(path)).error(
            f"no row is out of distribution by `shifted: {source.shifted}`.",
            code="E-DATA-SHIFT",
            key="shifted",
            fix="Values are compared as text, letter by letter; see what the column holds.",
        )


def no_rows(path: Path, counts: Counter[str]) -> DataError:
    """The file has nothing in it (E-DATA-NOROWS)."""
    text = "no rows: the file is empty." if not counts["blank"] else "no rows: all lines are blank."
    return Place(str(path)).error(text, code="E-DATA-NOROWS", fix="Check that the right file was named.")


def counted_marks(example: Example, counts: Counter[str]) -> None:
    """Counts rows that hold control characters or U+FFFD."""
    text = example.text if example.text is not None else "\n".join(turn.content for turn in example.messages)
    counts["control"] += bool(CONTROL.search(text))
    counts["replacement"] += REPLACEMENT in text


def _last_straw(error: DataError, allowed: int) -> DataError:
    if not allowed:
        return error
    why = f"{error.why} This is bad row number {allowed + 1}; `skip_bad` allows {allowed}.".strip()
    return DataError(error.what, code=error.code, where=error.where, why=why, fix=error.fix)
