"""The answer is the gold answer: the same words, whatever the case, spaces and punctuation."""

from __future__ import annotations

from keeptune.core.example import Example
from keeptune.data.normalise import words
from keeptune.data.verifiers import Verifier


class ExactMatch(Verifier):
    """words(answer) = words(gold); see `keeptune.data.normalise.words`."""

    def fault(self, example: Example, answer: str) -> str | None:
        """`wrong answer`, or None."""
        return None if words(answer) == words(example.target) else "wrong answer"
