"""Answers that speak of their writer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from keeptune.data.curation import Bound, Candidate, Rule, value_of

QUOTED = re.compile(r"```.*?```|`[^`\n]*`|^> .*$", re.DOTALL | re.MULTILINE)


class FirstPerson(Rule):
    """Removes answers that use the words more often than `most` times in a hundred words, outside of code and quotes.

    Letter case counts: `I`, not `i`. LIMA removes every answer that uses one; on sites where nearly all do, a quantile
    removes those that speak of their writer most.
    """

    order: ClassVar[int] = 4

    words: list[str] = Field(
        default=["I", "I'm", "I've", "I'd", "I'll", "my", "My", "mine", "myself"], min_length=1,
        description="words that speak of the writer",
    )  # fmt: skip
    most: Bound = Field(0.0, description="how often in a hundred words, or a quantile of the exchange: q0.5")

    def fitted(self, candidates: Sequence[Candidate]) -> FirstPerson:
        """With the quantile as a number."""
        return self.model_copy(update={"most": value_of(self.most, [self._share(one)[0] for one in candidates])})

    def reason(self, candidate: Candidate) -> str | None:
        """How often, and the first such word."""
        share, first = self._share(candidate)
        return f'says "{first}", {share:.1f} such words in a hundred' if share > float(self.most) else None

    def _share(self, candidate: Candidate) -> tuple[float, str]:
        own = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        plain = QUOTED.sub(" ", candidate.answer).replace("’", "'")
        found = re.findall(rf"(?<![\w'])(?:{own})(?![\w'])", plain)
        return 100 * len(found) / max(1, len(plain.split())), found[0] if found else ""
