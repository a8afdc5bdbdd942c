"""Sentences of a treebank (CoNLL-U, or JSON rows with its columns): plain text, or words to be tagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from keeptune.core.counting import counted
from keeptune.core.example import Example, Message
from keeptune.data.fields import as_text, required_text
from keeptune.data.formats import FileFormat, licence
from keeptune.data.place import Place


class Treebank(FileFormat):
    """`{"text", "form": [...], "upos": [...], ...}`; a `.conllu` file gives one such row a sentence.

    With `tags`, the prompt is the words with blanks between them, and the answer one tag for each.
    """

    tags: Literal["upos", "xpos", "lemma", "deprel"] | None = Field(
        None, description="what is answered for each word; unset: the sentence is a document"
    )

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One sentence."""
        own = str(row.get("sent_id") or place.line)
        if self.tags is None:
            text = required_text(row, "text", place, part="text")
            return Example(own, text=text, licence=licence(row), line=place.line)
        words, tags = _column(row, "form", place), _column(row, self.tags, place)
        if len(words) != len(tags):
            what = f"for {counted(len(words), 'word')} there are {len(tags)} of '{self.tags}'."
            raise place.error(what, code="E-DATA-TYPE", key=self.tags, fix="Each word needs one.")
        turns = (Message("user", " ".join(words)), Message("assistant", " ".join(tags)))
        return Example(own, turns, licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when words stand beside their tags."""
        return 1.0 if isinstance(row.get("form"), list) and isinstance(row.get("upos"), list) else 0.0


def _column(row: Mapping[str, Any], key: str, place: Place) -> list[str]:
    if key not in row:
        raise place.missing(row, key)
    cells = row[key]
    if not isinstance(cells, list) or not cells:
        raise place.error(f"'{key}' is not a list of words.", code="E-DATA-TYPE", key=key)
    return [as_text(cell, f"{key}[{number}]", place) for number, cell in enumerate(cells)]
