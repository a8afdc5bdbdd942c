"""Answers that are too short to show anything, or too long to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Bound, Candidate, Rule, value_of


class Length(Rule):
    """Removes answers outside a band of lengths in characters."""

    order: ClassVar[int] = 3

    least: Bound = Field(1200.0, description="shortest answer in characters, or a quantile of the exchange: q0.25")
    most: Bound = Field(4096.0, description="longest answer in characters, or a quantile")

    def fitted(self, candidates: Sequence[Candidate]) -> Length:
        """With the quantiles as numbers."""
        lengths = [float(len(candidate.answer)) for candidate in candidates]
        return self.model_copy(update={"least": value_of(self.least, lengths), "most": value_of(self.most, lengths)})

    def reason(self, candidate: Candidate) -> str | None:
        """Outside of the band."""
        length = len(candidate.answer)
        if length < float(self.least):
            return f"{length:,} characters, too short"
        return f"{length:,} characters, too long" if length > float(self.most) else None
