"""Rows of a CoNLL-U file: one a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from keeptune.core.errors import DataError
from keeptune.data.json_rows import Row
from keeptune.data.lines import read_lines
from keeptune.data.place import Place

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def sentences(stream: BinaryIO, file: str, limit: int, counts: Counter[str]) -> Iterator[Row]:
    """Sentences as `{"sent_id", "text", "form": [...], "lemma": [...], "upos": [...], ...}`.

    Multiword tokens (`1-2`) and empty nodes (`1.1`) are left out: the columns hold the syntactic words, in order.
    Comments `# key = value` become fields; `text` is put together from the words where no comment gives it.
    """
    held: dict[str, Any] = {}
    start, bad = 1, None
    for line in read_lines(stream, file, limit, counts):
        text = line.text
        if isinstance(text, DataError):
            bad = bad or text
        elif not text.strip():
            yield from _sentence(held, Place(file, start), bad)
            held, bad = {}, None
        else:
            start = line.number if not held else start
            bad = bad or _take(text, held, Place(file, line.number))
    yield from _sentence(held, Place(file, start), bad)


def _take(text: str, held: dict[str, Any], place: Place) -> DataError | None:
    if text.startswith("#"):
        key, _, value = text[1:].partition("=")
        held[key.strip()] = value.strip()
        return None
    cells = text.split("\t")
    if len(cells) != len(COLUMNS):
        what = f"a word has {len(cells)} fields, not the ten of CoNLL-U."
        return place.error(what, code="E-DATA-CSV", fix="Fields are separated by tabs; an empty one is `_`.")
    if cells[0].isdigit():
        for name, cell in zip(COLUMNS[1:], cells[1:], strict=True):
            held.setdefault(name, []).append(cell)
    return None


def _sentence(held: dict[str, Any], place: Place, bad: DataError | None) -> Iterator[Row]:
    if bad is not None:
        yield Row(place, bad)
    elif "form" in held:
        yield Row(place, {"text": " ".join(held["form"]), **held})
