"""Conversations written as one text with the speakers' names in it."""

from __future__ import annotations

import re

from keeptune.core.example import Message

MARKED = re.compile(r"(?:^|\s)###\s*(Human|User|Assistant)\s*:")
PLAIN = re.compile(r"(?:^|\n\n)(Human|User|Assistant)\s*:")
ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}


def turns_of(text: str) -> list[Message] | None:
    r"""The turns of `### Human: ... ### Assistant: ...` or of paragraphs `Human: ...`; None when it begins otherwise.

    >>> [(turn.role, turn.content) for turn in turns_of("Human: Hi\n\nAssistant: Hello")]
    [('user', 'Hi'), ('assistant', 'Hello')]
    """
    found = list((MARKED if text.lstrip().startswith("###") else PLAIN).finditer(text))
    if not found or text[: found[0].start()].strip():
        return None
    ends = [mark.start() for mark in found[1:]] + [len(text)]
    return [
        Message(ROLES[mark.group(1)], text[mark.end() : end].strip()) for mark, end in zip(found, ends, strict=True)
    ]
