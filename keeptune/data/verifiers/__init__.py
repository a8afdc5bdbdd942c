"""The verifiers shelf: is a sampled answer right, and which way did it go? One rule per file."""

from __future__ import annotations

from keeptune.core.example import Example
from keeptune.core.spec import Spec
from keeptune.data.normalise import words


class Verifier(Spec, shelf="keeptune.data.verifiers"):
    """Says of an answer that a model wrote whether it is right. What it reads is text, never code of this process."""

    def fault(self, example: Example, answer: str) -> str | None:
        """Why an answer is not accepted, in a word or two that are counted; None where it is right.

        Args:
            example: the question, with its own answer in `example.target`.
            answer: what a model wrote.

        Raises:
            DataError: the example cannot be verified this way (E-VERIFY-ROW).
        """
        raise NotImplementedError

    def way(self, answer: str) -> str:
        """What two answers share that say the same: their words, unless a verifier knows better."""
        return " ".join(words(answer))
