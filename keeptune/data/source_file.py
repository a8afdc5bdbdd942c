"""Opening a data file: a regular file, plain or gzip, found beside the recipe; nothing else, and without hanging."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from keeptune.core.errors import DataError, did_you_mean
from keeptune.data.hub import PREFIX, hub_file
from keeptune.data.place import Place

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".xml": "xml",
    ".conllu": "conllu",
}
GZIP_MAGIC = b"\x1f\x8b"


def locate(path: str, folder: Path | None = None) -> Path:
    """`path` itself when absolute, else below `folder` (the recipe's) or the working folder; `hub:...` is fetched."""
    if path.startswith(PREFIX):
        return hub_file(path)
    found = Path(path).expanduser()
    return found if found.is_absolute() or folder is None else folder / found


def kind_of(path: Path) -> str:
    """`jsonl`, `json`, `csv`, `tsv`, `parquet`, `xml`, `conllu` or `text`, by the name without `.gz`.

    Raises:
        DataError: E-DATA-SUFFIX.
    """
    name = path.name.removesuffix(".gz")
    kind = SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise Place(str(path)).error(
            f"no reader knows the ending '{Path(name).suffix}'.",
            code="E-DATA-SUFFIX",
            fix=f"Readable: {', '.join(SUFFIXES)}, each also with .gz.",
        )
    return kind


@contextmanager
def open_source(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a regular file, buffered.

    Symbolic links, pipes, devices and folders are refused before a byte is read: a pipe would block for ever and a
    link can change under a digest.

    Raises:
        DataError: E-DATA-MISSING, E-DATA-KIND, E-DATA-UNREADABLE, E-DATA-GZIP, E-DATA-TRUNCATED.
    """
    refuse_irregular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        text = f"the file cannot be read: {error.strerror}."
        raise Place(str(path)).error(text, code="E-DATA-UNREADABLE", fix="Check its permissions.") from error
    with os.fdopen(descriptor, "rb") as plain:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            refuse_irregular(path)
        zipped = plain.peek(2)[:2] == GZIP_MAGIC
        if path.name.endswith(".gz") and not zipped and os.fstat(descriptor).st_size:
            raise Place(str(path)).error(
                "the name ends in .gz but the content is not gzip.", code="E-DATA-GZIP", fix="Rename it without .gz."
            )
        yield io.BufferedReader(gzip.GzipFile(fileobj=plain)) if zipped else plain


def refuse_irregular(path: Path) -> None:
    """Raises unless `path` is a regular file; names the nearest file when it is missing."""
    place = Place(str(path))
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError) as error:
        raise _missing(path) from error
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        target = os.path.realpath(path)
        raise place.error("this is a symbolic link.", code="E-DATA-KIND", fix=f"Name the file itself: {target}")
    if stat.S_ISDIR(mode):
        inside = [
            found.name for found in sorted(path.iterdir()) if found.name.removesuffix(".gz").endswith(tuple(SUFFIXES))
        ]
        fix = f"Name one of its files: {', '.join(inside[:5])}." if inside else "Name a data file."
        raise place.error("this is a folder, not a data file.", code="E-DATA-KIND", fix=fix)
    name = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise place.error(
        f"this is {name}, not a regular file.", code="E-DATA-KIND", fix="Write its content to a file first."
    )


@contextmanager
def unzipping(path: Path) -> Iterator[None]:
    """Turns gzip's faults into ours while the content is read.

    Raises:
        DataError: E-DATA-TRUNCATED when the compressed stream stops early, E-DATA-GZIP when it is damaged.
    """
    try:
        yield
    except EOFError as error:
        raise Place(str(path)).error(
            "the gzip stream stops before its end: the file looks truncated.",
            code="E-DATA-TRUNCATED",
            fix="Copy or download it again.",
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Place(str(path)).error(
            f"the gzip stream is damaged ({error}).", code="E-DATA-GZIP", fix="Copy or download it again."
        ) from error


def _missing(path: Path) -> DataError:
    parent = path.parent
    readable = tuple(SUFFIXES)
    siblings = parent.iterdir() if parent.is_dir() else ()
    known = [found.name for found in siblings if found.name.removesuffix(".gz").lower().endswith(readable)]
    fix = did_you_mean(path.name, known)
    if not fix:
        fix = f"No data file is in the folder {parent}." if parent.is_dir() else f"There is no folder {parent} either."
    return Place(str(path)).error("there is no such file.", code="E-DATA-MISSING", fix=fix)
