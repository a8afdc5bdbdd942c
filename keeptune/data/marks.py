"""Marks around the content of each turn, so that a rendered conversation says where every turn ended up.

A private-use character goes before and after the content, inside its outer white space: a template that trims
gives the same text with and without marks. Which template text and which content a position belongs to is then
read off, whatever the template does around it, and whether it renders turns alone or all together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeptune.core.errors import DataError

# The upper half of plane 16: private, and unlike plane 15 not used by icon fonts. Room for 16,000 turns.
FIRST = 0x108000
LAST = 0x10FFF0
MARK = re.compile(f"[{chr(FIRST)}-{chr(LAST)}]")


@dataclass(frozen=True)
class Marked:
    """A rendered conversation without its marks.

    Attributes:
        text: what the template writes.
        starts: turn to the positions in `text` where its content starts; empty where the template cut the start off.
        ends: turn to the positions where its content ends.
    """

    text: str
    starts: Mapping[int, Sequence[int]]
    ends: Mapping[int, Sequence[int]]

    def last_end(self) -> tuple[int, int]:
        """The turn whose content ends last, and where.

        Raises:
            DataError: no turn says anything (E-DATA-EMPTY).
        """
        if not self.ends:
            raise DataError("no turn of this conversation says anything.", code="E-DATA-EMPTY", fix="Give it a text.")
        place, turn = max((places[-1], turn) for turn, places in self.ends.items())
        return turn, place

    def contents(self) -> list[tuple[int, int]]:
        """Spans of `text` that the conversation wrote, not the template."""
        spans = []
        for turn, ends in self.ends.items():
            starts = self.starts.get(turn, ())
            spans += [(start, min(end for end in ends if end >= start)) for start in starts if start <= ends[-1]]
        return sorted(spans)


def mark(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns with marked contents; a content of white space stays as it is."""
    return [{**turn, "content": _marked(turn["content"], number)} for number, turn in enumerate(turns)]


def unmark(text: str) -> Marked:
    """Takes the marks out and remembers where they stood."""
    parts: list[str] = []
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    before, length = 0, 0
    for found in MARK.finditer(text):
        parts.append(text[before : found.start()])
        length += len(parts[-1])
        turn, is_end = divmod(ord(found.group()) - FIRST, 2)
        (ends if is_end else starts).setdefault(turn, []).append(length)
        before = found.end()
    return Marked("".join([*parts, text[before:]]), starts, ends)


def _marked(content: str, turn: int) -> str:
    core = content.strip()
    if not core:
        return content
    before = content[: len(content) - len(content.lstrip())]
    opening, closing = chr(FIRST + 2 * turn), chr(FIRST + 2 * turn + 1)
    return f"{before}{opening}{core}{closing}{content[len(before) + len(core) :]}"
