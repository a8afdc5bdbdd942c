"""Recognising classification: short answers that come again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from keeptune.core.example import Example

LABEL_LETTERS = 60
ROWS_PER_LABEL = 3
ALIKE, NAMED, FRAMED = 3, 2, 0.9
"""Words that requests begin or end with alike, labels that one names, and the share that a frame's word begins."""
BARE = (
    "no request says what is wanted of it, so that the model may answer whatever looks like these rows with a label; "
    'a prompt such as "Which topic is this about? {text}" says it'
)

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


def asked_bare(examples: Sequence[Example], labels: Iterable[str], *, most: int = 500) -> bool:
    """Whether nothing in the requests says that a label is wanted, so that other requests may look like them.

    It is said by a system turn, or where half of the requests name two labels or begin or end with the same three
    words, or nearly all begin with the same word, such as `Text:`.

    Args:
        examples: conversations.
        labels: their answers.
        most: rows that are looked at.
    """
    rows = examples[:most]
    if not rows or any(row.text is not None or row.messages[0].role == "system" for row in rows):
        return False
    asked = [next(turn.content for turn in reversed(row.messages) if turn.role == "user") for row in rows]
    known, words = [label.lower() for label in labels], [text.split() for text in asked]
    named = sum(sum(label in text.lower() for label in known) >= NAMED for text in asked)
    alike = max(_most([own[:ALIKE] for own in words]), _most([own[-ALIKE:] for own in words]))
    framed = _most([own[:1] for own in words]) >= FRAMED * len(rows)
    return not framed and max(named, alike) < len(rows) / 2


def _most(parts: Sequence[Sequence[str]]) -> int:
    """How often the most frequent part comes."""
    return max(Counter(map(tuple, parts)).values())
