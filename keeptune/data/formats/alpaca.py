"""Instruction, optional input, output: one turn each, after Stanford Alpaca."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from keeptune.core.example import Example, Message
from keeptune.data.fields import as_text, empty, optional_text, required_text
from keeptune.data.formats import FileFormat, guessable, identity, licence
from keeptune.data.place import Place


class Alpaca(FileFormat):
    """`{"instruction", "input", "output"}`; also an optional `system` text and a `history` of earlier turns.

    The prompt is the instruction, a blank line and the input; no preamble is added, because the tokenizer's chat
    template already says who speaks. `history` holds pairs `[question, answer]`, as LIMA's copies do.
    """

    instruction: str = Field("instruction", description="column of the instruction")
    input: str = Field("input", description="column of the optional input")
    output: str = Field("output", description="column of the answer")
    system: str = Field("system", description="column of an optional system text")
    history: str = Field("history", description="column of optional earlier [question, answer] pairs")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One user turn and one assistant turn, after the history."""
        if self.instruction not in row:
            raise place.missing(row, self.instruction, "instruction")
        asked = optional_text(row, self.instruction, place)
        parts = [part for part in (asked, optional_text(row, self.input, place)) if part]
        if not parts:
            raise empty(as_text(row[self.instruction], self.instruction, place), self.instruction, place, "prompt")
        answer = required_text(row, self.output, place, setting="output", part="answer")
        system = optional_text(row, self.system, place)
        turns = [Message("system", system)] if system else []
        turns += self._earlier(row, place)
        turns += [Message("user", "\n\n".join(parts)), Message("assistant", answer)]
        return Example(identity(row, place), tuple(turns), licence=licence(row), line=place.line)

    def _earlier(self, row: Mapping[str, Any], place: Place) -> list[Message]:
        pairs = row.get(self.history)
        if pairs is None or pairs == "":
            return []
        key = self.history
        if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            raise place.error(f"'{key}' must be a list of [question, answer] pairs.", code="E-DATA-TYPE", key=key)
        turns = []
        for number, (question, answer) in enumerate(pairs):
            for role, text in (("user", question), ("assistant", answer)):
                spot = f"{key}[{number}]"
                if not as_text(text, spot, place).strip():
                    raise empty(text, spot, place, "answer" if role == "assistant" else "prompt")
                turns.append(Message(role, text))
        return turns

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when an instruction stands beside an output."""
        both = guessable(row.get("instruction")) and isinstance(row.get("output"), str)
        return (1.0 if "input" in row else 0.9) if both else 0.0
