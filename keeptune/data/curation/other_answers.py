"""Answers that cannot be read alone, for they speak of other answers or of the site."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Candidate, Rule


class OtherAnswers(Rule):
    """Removes answers that hold one of the phrases, in any letter case."""

    order: ClassVar[int] = 5

    phrases: list[str] = Field(
        default=[
            "as mentioned", "as others have", "as other answers", "other answers", "another answer", "answer above",
            "answer below", "answers above", "answers below", "accepted answer", "previous answer", "'s answer",
            "in the comments", "comment above", "comments above", "your comment", "stack exchange", "stackexchange",
            "stack overflow", "stackoverflow", "upvote", "downvote", "this question was",
        ],
        min_length=1, description="phrases that point outside of the answer",
    )  # fmt: skip

    def reason(self, candidate: Candidate) -> str | None:
        """The first such phrase."""
        text = re.sub(r"\s+", " ", candidate.answer).replace("’", "'").casefold()
        found = next((phrase for phrase in self.phrases if phrase.casefold() in text), None)
        return f'says "{found}"' if found else None
