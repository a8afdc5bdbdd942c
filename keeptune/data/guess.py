"""Guessing a file's format for `keeptune init`, and saying why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from keeptune.core.errors import DataError
from keeptune.data.formats import FileFormat, Format
from keeptune.data.label_set import label_set
from keeptune.data.place import Place
from keeptune.data.rows import read_rows
from keeptune.data.source_file import locate

__all__ = ["Guess", "guess_format", "label_set"]

ROWS = 50
SURE_ENOUGH = 0.5
ROW_BYTES = 16 << 20


class Guess(NamedTuple):
    """A format with its settings, why, and how sure the guess is (0 to 1)."""

    format: FileFormat
    reason: str
    confidence: float


def guess_format(path: str, folder: Path | None = None) -> Guess:
    """Looks at the first 50 rows; every format on the shelf is asked, and the surest one is taken.

    Args:
        path: data file, as a recipe would name it.
        folder: against which a relative path is read.

    Raises:
        DataError: no format fits (E-DATA-GUESS), or the file cannot be read.
    """
    counts: Counter[str] = Counter()
    rows: list[Mapping[str, Any]] = []
    bad: list[DataError] = []
    for row in islice(read_rows(locate(path, folder), ROW_BYTES, counts), ROWS):
        if isinstance(row.values, DataError):
            bad.append(row.values)
        else:
            rows.append(row.values)
    if not rows and not bad:
        raise Place(path).error("no rows.", code="E-DATA-NOROWS", fix="Check that the right file was named.")
    if not rows:
        text = f"no usable rows among the {len(bad)} that were looked at."
        raise Place(path).error(text, code="E-DATA-NOROWS", why=f"The first: {bad[0]}")
    members = [member for name in Format.names() if issubclass(member := Format.find(name), FileFormat)]
    scores = {member: round(fmean(member.looks_like(row) for row in rows), 2) for member in members}
    best = max(scores, key=lambda member: scores[member])
    keys = ", ".join(map(str, list(rows[0])[:12]))
    if scores[best] < SURE_ENOUGH:
        raise Place(path).error(
            f"no format fits these rows; they have: {keys}.",
            code="E-DATA-GUESS",
            fix="Name the columns: format: prompt_completion, prompt: COLUMN, completion: COLUMN.",
        )
    settings = best.settings_for(rows)
    found: FileFormat = best.model_validate({"path": path, **settings})
    shown = {key: " and ".join(value) if isinstance(value, list) else value for key, value in settings.items()}
    chosen = ", ".join(f"{key}: {value}" for key, value in shown.items())
    reason = f"rows have {keys}" + (f"; {chosen}" if chosen else "")
    return Guess(found, reason, scores[best])
