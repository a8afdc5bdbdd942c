"""Questions whose title says nothing without its text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Candidate, Rule
from keeptune.data.normalise import words


class Title(Rule):
    """Removes questions whose title is too short, or points at something that only the text shows.

    Rows without a title stay. LIMA's authors judged by eye whether a title stands alone; this is what words can say.
    """

    order: ClassVar[int] = 2

    least: int = Field(4, ge=0, description="fewest words of the title")
    pointers: list[str] = Field(
        default=["this", "these", "here", "following"], description="words that point at the text"
    )

    def reason(self, candidate: Candidate) -> str | None:
        """Too short, or not to be understood alone."""
        if not candidate.title:
            return None
        said = words(candidate.title)
        if len(said) < self.least:
            return f"the title has {len(said)} words"
        found = next((word for word in said if word in self.pointers), None)
        return f"the title says '{found}'" if found else None
