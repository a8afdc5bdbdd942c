"""A first look at a file: every row counted, bad ones named, nothing held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from keeptune.core.digest import file_digest
from keeptune.core.errors import DataError
from keeptune.data.formats import FileFormat
from keeptune.data.read import NAMED_ROWS, counted_marks, empty_counts, no_rows, refuse_other_content, stream
from keeptune.data.source_file import locate, refuse_irregular


@dataclass
class Survey:
    """What a file holds.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file.
        counts: as in `read.Reading`.
        bad: the first 100 complaints.
        said: rows by the part that they state; `""` states none.
    """

    path: Path
    digest: str
    counts: Counter[str]
    bad: list[DataError] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)


def survey(source: FileFormat, folder: Path | None) -> Survey:
    """Reads a file from one end to the other in bounded memory.

    Raises:
        DataError: the file cannot be read, is not the one that the recipe pins, or holds no rows.
    """
    path = locate(source.path, folder)
    refuse_irregular(path)
    found = Survey(path, file_digest(path), empty_counts())
    refuse_other_content(source, path, found.digest)
    for outcome in stream(source, path, found.counts):
        found.counts["read"] += 1
        if isinstance(outcome, DataError):
            found.counts["bad"] += 1
            if len(found.bad) < NAMED_ROWS:
                found.bad.append(outcome)
        else:
            found.counts["kept"] += 1
            counted_marks(outcome, found.counts)
            found.said[outcome.part] += 1
    if not found.counts["read"]:
        raise no_rows(path, found.counts)
    return found
