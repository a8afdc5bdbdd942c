"""Documents, learned whole: continued pretraining, or general text to replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from keeptune.core.example import Example
from keeptune.data.fields import required_text
from keeptune.data.formats import FileFormat, guessable, identity, licence
from keeptune.data.place import Place


class PlainText(FileFormat):
    """`{"text"}` a row; a .txt file is one document, or one a line with `per_line: true`."""

    text: str = Field("text", description="column of the document")
    per_line: bool = Field(False, description="each line of a .txt file is a document")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One document."""
        text = required_text(row, self.text, place, setting="text", part="text")
        return Example(identity(row, place), text=text, licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """A `text` with nothing beside it that could be an answer; surer the fewer other fields there are."""
        return (0.9 if len(row) == 1 else 0.7) if guessable(row.get("text")) else 0.0
