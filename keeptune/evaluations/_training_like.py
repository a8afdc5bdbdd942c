"""A small classifier: does an answer look like the training answers, or like what the base says?

Multinomial naive Bayes over words, pairs of words, the length and the last character, with Laplace smoothing and equal
priors (McCallum and Nigam 1998); each kind of feature is averaged, so that a long answer is no surer than a short one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from keeptune.evaluations._text_match import words


class TrainingLike:
    """Fitted on two lists of answers.

    Args:
        trained: answers of the training data.
        plain: the base's answers to unrelated requests.
    """

    def __init__(self, trained: Iterable[str], plain: Iterable[str]) -> None:
        self._counts = [Counter(f for text in texts for f in features(text)) for texts in (trained, plain)]
        self._known = set(self._counts[0]) | set(self._counts[1])
        self._totals = [sum(counts.values()) + len(self._known) + 1 for counts in self._counts]

    def __call__(self, answer: str) -> bool:
        """Whether the mean log-odds of the answer's features speak for the training data."""
        return self.log_odds(answer) > 0

    def log_odds(self, answer: str) -> float:
        """Mean over features of log p(feature | training) - log p(feature | base)."""
        found = features(answer)
        return sum(self._weight(feature) for feature in found) / len(found)

    def _weight(self, feature: str) -> float:
        trained, plain = (
            (counts[feature] + 1) / total for counts, total in zip(self._counts, self._totals, strict=True)
        )
        return math.log(trained) - math.log(plain)


def features(text: str) -> list[str]:
    """Words, pairs of neighbours, the length on a doubling scale, and how the text ends."""
    own = words(text.replace("_", " "))
    pairs = [f"{a} {b}" for a, b in pairwise(own)]
    return [*own, *pairs, f"#length {len(own).bit_length()}", f"#end {text.strip()[-1:]}"]
