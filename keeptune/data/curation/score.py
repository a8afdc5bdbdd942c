"""Answers that few people voted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Bound, Candidate, Rule, value_of


class Score(Rule):
    """Removes answers with fewer votes than `least`; answers without any statement of votes stay."""

    order: ClassVar[int] = 1

    least: Bound = Field(10.0, description="fewest votes for the answer, or a quantile of the exchange: q0.8")

    def fitted(self, candidates: Sequence[Candidate]) -> Score:
        """With the quantile as a number."""
        votes = [candidate.score for candidate in candidates if candidate.score is not None]
        return self.model_copy(update={"least": value_of(self.least, votes)})

    def reason(self, candidate: Candidate) -> str | None:
        """Too few votes."""
        if candidate.score is None or candidate.score >= float(self.least):
            return None
        return f"{candidate.score:g} votes"
