"""Example: one record of data, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
TEXTS = "texts"
"""In a turn's `extra`: the texts that it is made of, one per line, where a row has several."""


@dataclass(frozen=True)
class Message:
    """One turn. `extra` keeps what a chat template may render: tool calls, thinking, a tool's name."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that `apply_chat_template` expects."""
        return {**self.extra, "role": self.role, "content": self.content}

    @property
    def later_texts(self) -> tuple[int, ...]:
        """Letters of `content` at which its texts begin, but the first; none where it is one text."""
        texts = self.extra.get(TEXTS)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return ()
        return tuple(accumulate(len(text) + 1 for text in texts[:-1])) if "\n".join(texts) == self.content else ()


@dataclass(frozen=True)
class Example:
    """A conversation (`messages`, learned on its assistant turns) or a plain `text` (learned whole).

    Attributes:
        id: stable within its source; the row's own id, else its line number.
        messages: the turns, in order; empty for plain text.
        text: the document; None for a conversation.
        source: name of the source in the recipe.
        licence: as the row states it.
        line: line of the file, 1-based; None when the row was made, not read.
        rejected: a worse last answer, in preference data.
        part: `train`, `dev`, `test` or `ood` when the row itself says so; a split honours it.
    """

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: str = ""
    licence: str = ""
    line: int | None = None
    part: str = ""
    rejected: str | None = None

    @property
    def target(self) -> str:
        """What the last turn of the assistant says, or the whole text."""
        if self.text is not None:
            return self.text
        return next((turn.content for turn in reversed(self.messages) if turn.role == "assistant"), "")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last turn of the assistant."""
        last = max((i for i, turn in enumerate(self.messages) if turn.role == "assistant"), default=len(self.messages))
        return self.messages[:last]
