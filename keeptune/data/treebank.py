"""Sentences of a treebank with their columns, for probes: words that stay words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.data.place import Place
from keeptune.data.read import empty_counts, no_rows
from keeptune.data.rows import read_rows

ROW_BYTES = 1 << 20
FEATURES = "feats."
ABSENT = "_"


@dataclass(frozen=True)
class Sentence:
    """One sentence.

    Attributes:
        id: its `sent_id`, or the line it begins at.
        text: as it is written, with its own blanks.
        words: N syntactic words.
        columns: name to one cell per word; `head` counts words from 1, and 0 is the root's.
    """

    id: str
    text: str
    words: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]


def read_treebank(path: Path, columns: Sequence[str]) -> list[Sentence]:
    """Every sentence of a CoNLL-U file, or of JSON rows with its columns.

    Args:
        path: `.conllu`, `.jsonl` or `.json`, also with `.gz`.
        columns: what is wanted of each word: `upos`, `xpos`, `lemma`, `head`, `deprel`, ..., or one feature of the
            column of features as `feats.Number` (`_` where a word has none).

    Raises:
        DataError: the file cannot be read, a sentence lacks a column (E-DATA-KEY), a column has not one cell for each
            word (E-DATA-TYPE), or a head is no word of its sentence (E-DATA-HEAD).
    """
    counts: Counter[str] = empty_counts()
    found = []
    for row in read_rows(path, ROW_BYTES, counts):
        if isinstance(row.values, DataError):
            raise row.values
        found.append(_sentence(row.values, row.place, columns))
    if not found:
        raise no_rows(path, counts)
    return found


def _sentence(row: Mapping[str, Any], place: Place, columns: Sequence[str]) -> Sentence:
    words = _cells(row, "form", place)
    kept: dict[str, tuple[str, ...]] = {}
    for name in columns:
        cells = _cells(row, "feats" if name.startswith(FEATURES) else name, place)
        if len(cells) != len(words):
            what = f"for {counted(len(words), 'word')} there are {len(cells)} of '{name}'."
            raise place.error(what, code="E-DATA-TYPE", key=name, fix="Each word needs one.")
        if name == "head":
            _check_heads(cells, place)
        is_feature = name.startswith(FEATURES)
        kept[name] = tuple(_feature(cell, name[len(FEATURES) :]) for cell in cells) if is_feature else cells
    return Sentence(str(row.get("sent_id") or place.line), str(row.get("text") or " ".join(words)), words, kept)


def _cells(row: Mapping[str, Any], key: str, place: Place) -> tuple[str, ...]:
    if key not in row:
        raise place.missing(row, key)
    cells = row[key]
    if not isinstance(cells, list) or not cells or not all(isinstance(cell, (str, int)) for cell in cells):
        raise place.error(f"'{key}' is not a list with one text for each word.", code="E-DATA-TYPE", key=key)
    return tuple(map(str, cells))


def _feature(cell: str, wanted: str) -> str:
    """`Sing` for `Number` in `Case=Nom|Number=Sing`."""
    named = dict(part.split("=", 1) for part in cell.split("|") if "=" in part)
    return named.get(wanted, ABSENT)


def _check_heads(cells: Sequence[str], place: Place) -> None:
    for number, cell in enumerate(cells, start=1):
        if not cell.isdecimal() or int(cell) > len(cells):
            raise place.error(
                f"the head of word {number} is '{cell}'; the sentence has {counted(len(cells), 'word')}.",
                code="E-DATA-HEAD",
                key="head",
                fix="A head is a word's number, counted from 1, or 0 for the root.",
            )
