"""Conversations in one text field, with `### Human:` and `### Assistant:` in it (Guanaco, HH-RLHF)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from keeptune.core.example import Example, Message
from keeptune.data.fields import empty, optional_text, required_text
from keeptune.data.formats import FileFormat, identity, licence
from keeptune.data.place import Place
from keeptune.data.transcript import turns_of
from keeptune.data.turn_order import check_order

COLUMNS = ("text", "input", "prompt", "conversation")


class Transcript(FileFormat):
    """`{"text": "### Human: ... ### Assistant: ..."}`, where the last answer may stand in a column of its own."""

    text: str = Field("text", description="column of the transcript")
    answer: str = Field("output", description="column of the last answer, when the transcript ends with its name")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """All turns, in order."""
        written = required_text(row, self.text, place, setting="text", part="prompt")
        turns = turns_of(written)
        if turns is None:
            what = f"'{self.text}' does not begin with a speaker's name, such as '### Human:'."
            raise place.error(what, code="E-DATA-ROLES", key=self.text, fix="Use another format for such rows.")
        if turns[-1].role == "assistant" and not turns[-1].content:
            turns[-1] = Message("assistant", optional_text(row, self.answer, place))
        blank = next((turn for turn in turns if not turn.content), None)
        if blank is not None:
            raise empty("", self.text, place, "answer" if blank.role == "assistant" else "prompt")
        check_order(turns, self.text, place)
        return Example(identity(row, place), tuple(turns), licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when a usual column begins with a speaker and names the assistant."""
        return 0.95 if _column(row) else 0.0

    @classmethod
    def settings_for(cls, rows: Any) -> dict[str, str]:
        """The column found first."""
        column = next(filter(None, map(_column, rows)), None)
        return {"text": column} if column and column != "text" else {}


def _column(row: Mapping[str, Any]) -> str | None:
    for name in COLUMNS:
        text = row.get(name)
        turns = turns_of(text) if isinstance(text, str) else None
        if turns and turns[0].role == "user" and any(turn.role == "assistant" for turn in turns):
            return name
    return None
