"""Questions and answers of a Stack Exchange dump, `Posts.xml`, joined and turned from HTML into text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from zlib import crc32

from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.fields import required_text
from keeptune.data.formats import FileFormat, licence
from keeptune.data.html_text import html_to_text
from keeptune.data.json_rows import Row
from keeptune.data.place import Place

QUESTION, ANSWER = "1", "2"


class StackExchange(FileFormat):
    """One conversation for a question and its best answer (highest score, the accepted one among equals).

    Questions without an answer and posts of other kinds are left out. Memory: the questions, and one answer for each.
    `keeptune data curate` chooses among them.
    """

    prompt: Literal["title", "body", "both", "either"] = Field(
        "both", description="what is asked: the title, the text, both, or either of the first two by a hash of the id"
    )

    def arrange(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One row a question that has an answer, in the order of the questions."""
        questions: dict[str, Row] = {}
        best: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            if isinstance(row.values, DataError):
                yield row
            elif row.values.get("PostTypeId") == QUESTION:
                questions[str(row.values.get("Id"))] = row
            elif row.values.get("PostTypeId") == ANSWER:
                asked = str(row.values.get("ParentId"))
                if asked not in best or self._rank(row.values, questions) > self._rank(best[asked], questions):
                    best[asked] = row.values
        for number, row in questions.items():
            if number in best and not isinstance(row.values, DataError):
                yield Row(row.place, {**row.values, "Answer": dict(best[number])})

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One user turn and one assistant turn."""
        answer = row.get("Answer")
        if not isinstance(answer, dict):
            raise place.missing(row, "Answer")
        told = html_to_text(required_text(answer, "Body", place, part="answer"))
        title, body = str(row.get("Title") or ""), html_to_text(str(row.get("Body") or ""))
        either = title if crc32(str(row.get("Id")).encode()) % 2 or not body else body
        asked = {
            "either": either,
            "title": title,
            "body": body,
            "both": "\n\n".join(part for part in (title, body) if part),
        }[self.prompt]
        plain = {"question": asked, "answer": told}
        turns = (
            Message("user", required_text(plain, "question", place, part="prompt")),
            Message("assistant", required_text(plain, "answer", place, part="answer")),
        )
        return Example(str(row.get("Id") or place.line), turns, licence=licence(row), line=place.line)

    def _rank(self, answer: Mapping[str, Any], questions: Mapping[str, Row]) -> tuple[int, bool]:
        asked = questions.get(str(answer.get("ParentId")))
        accepted = (
            None if asked is None or isinstance(asked.values, DataError) else asked.values.get("AcceptedAnswerId")
        )
        return score_of(answer), accepted == answer.get("Id")

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when posts have a type and a body."""
        return 1.0 if {"PostTypeId", "Body"} <= set(row) else 0.0


def score_of(post: Mapping[str, Any]) -> int:
    """Votes for a post; 0 where none are stated."""
    try:
        return int(post.get("Score", 0))
    except (TypeError, ValueError):
        return 0
