"""Recognising classification: short answers that come again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from keeptune.core.example import Example

LABEL_LETTERS = 60
ROWS_PER_LABEL = 3

LABELLED = ("label_accuracy", "cloze_accuracy")
"""Metrics of answers from a fixed set."""


def label_set(examples: Sequence[Example], *, most: int = 256) -> tuple[str, ...] | None:
    """The answers as a sorted set of labels, or None when they are free text.

    They are labels when there are 2 to `most` different ones, none longer than 60 letters or of several lines, and
    they come three times each on average.

    Args:
        examples: conversations; documents have no labels.
        most: largest set.
    """
    if not examples or any(example.text is not None for example in examples):
        return None
    times = Counter(example.target.strip() for example in examples)
    short = all(len(label) <= LABEL_LETTERS and "\n" not in label for label in times)
    often = len(examples) >= ROWS_PER_LABEL * len(times)
    return tuple(sorted(times)) if short and often and 2 <= len(times) <= most else None
