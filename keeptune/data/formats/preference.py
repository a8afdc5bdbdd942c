"""Pairs of a better and a worse answer to one prompt; losses over pairs learn both, all others the better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from keeptune.core.example import Example, Message
from keeptune.data.fields import required_text
from keeptune.data.formats import FileFormat, identity, licence
from keeptune.data.formats.messages import read_turn
from keeptune.data.place import Place
from keeptune.data.transcript import turns_of
from keeptune.data.turn_order import check_order


class Preference(FileFormat):
    """`{"prompt", "chosen", "rejected"}`: texts, lists of turns, or transcripts without a prompt (HH-RLHF).

    The Example is the conversation with the chosen answer; the rejected one stands in `Example.rejected`.
    """

    prompt: str = Field("prompt", description="column of the prompt, where the answers do not hold it")
    chosen: str = Field("chosen", description="column of the better answer")
    rejected: str = Field("rejected", description="column of the worse answer")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """The chosen conversation, with the rejected answer beside it."""
        better, worse = (self._conversation(row, column, place) for column in (self.chosen, self.rejected))
        if [(t.role, t.content) for t in better[:-1]] != [(t.role, t.content) for t in worse[:-1]]:
            raise place.error(
                "the two answers do not stand behind the same turns.",
                code="E-DATA-PAIR",
                key=self.rejected,
                fix="A pair differs in its last turn only.",
            )
        if better[-1].content == worse[-1].content:
            what = "both answers are the same: the pair says nothing."
            raise place.error(what, code="E-DATA-PAIR", key=self.rejected, fix="Delete the row.")
        check_order(better, self.chosen, place)
        own, said = identity(row, place), licence(row)
        return Example(own, tuple(better), licence=said, line=place.line, rejected=worse[-1].content)

    def _conversation(self, row: Mapping[str, Any], column: str, place: Place) -> list[Message]:
        """The turns before the answer and the answer."""
        if isinstance(row.get(column), list):
            turns = [read_turn(turn, f"{column}[{number}]", place) for number, turn in enumerate(row[column])]
        else:
            text = required_text(row, column, place, setting=column, part="answer")
            turns = turns_of(text) or [Message("assistant", text)]
        if not turns or turns[-1].role != "assistant":
            what = f"'{column}' does not end with an answer."
            raise place.error(what, code="E-DATA-ROLES", key=column, fix="Delete the row.")
        if len(turns) > 1:
            return turns
        asked = row.get(self.prompt)
        if isinstance(asked, list):
            return [*(read_turn(t, f"{self.prompt}[{n}]", place) for n, t in enumerate(asked)), *turns]
        return [Message("user", required_text(row, self.prompt, place, setting="prompt", part="prompt")), *turns]

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when a chosen answer stands beside a rejected one."""
        return 1.0 if row.get("chosen") and row.get("rejected") else 0.0
