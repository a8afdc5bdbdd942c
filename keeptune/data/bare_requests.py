"""Requests with a label that do not say what is wanted: a model cannot tell other requests from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from keeptune.core.example import Example

LOOKED_AT = 500
ALIKE, NAMED, FRAMED = 3, 2, 0.9
"""Words that requests begin or end with alike, labels that one names, and the share that a frame's word begins."""
BARE = (
    "no request says what is wanted of it, so that the model may answer whatever looks like these rows with a label; "
    'a prompt such as "Which topic is this about? {text}" says it'
)


def asked_bare(examples: Sequence[Example], labels: Iterable[str]) -> bool:
    """Whether nothing in the requests says that a label is wanted, so that other requests may look like them.

    It is said by a system turn, or where half of the requests name two labels or begin or end with the same three
    words, or nearly all begin with the same word, such as `Text:`.

    Args:
        examples: conversations.
        labels: their answers.
    """
    rows = examples[:LOOKED_AT]
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
