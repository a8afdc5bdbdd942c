"""Openings that speak of an article: rewritten to speak of the answer, as LIMA does with wikiHow."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Candidate, Rule

SENTENCE = re.compile(r"[.!?](?=\s|$)")


class Opening(Rule):
    """Replaces `this article` by `the following answer` in the first two sentences; removes nothing."""

    order: ClassVar[int] = 6

    said: str = Field("this article", min_length=1, description="what is replaced, in any letter case")
    instead: str = Field("the following answer", description="what stands there then")

    def reason(self, candidate: Candidate) -> None:
        """Nothing is removed."""
        return None

    def rewritten(self, candidate: Candidate) -> Candidate:
        """With the opening that speaks of the answer."""
        ends = [found.end() for found in SENTENCE.finditer(candidate.answer)][:2]
        end = ends[-1] if ends else len(candidate.answer)
        head = re.sub(re.escape(self.said), self._in_case, candidate.answer[:end], flags=re.IGNORECASE)
        turns = candidate.example.messages
        last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
        if last is None or head == candidate.answer[:end]:
            return candidate
        new = replace(turns[last], content=head + candidate.answer[end:])
        return replace(candidate, example=replace(candidate.example, messages=(*turns[:last], new, *turns[last + 1 :])))

    def _in_case(self, found: re.Match[str]) -> str:
        return self.instead[:1].upper() + self.instead[1:] if found.group()[:1].isupper() else self.instead
