"""Reduce a docstring to its prose: no parameter tables, doctests, code, headings or markup."""

from __future__ import annotations

import re

_ROLE = re.compile(r":[\w:+-]+:`~?(?:[^`<]*<)?([^`>]*)>?`")
_QUOTED = re.compile(r"``?([^`]*)``?")
_EMPHASIS = re.compile(r"\*\*?(\w[^*]*)\*\*?")
_LINK_TAIL = re.compile(r"_{1,2}(?=[\s.,;)]|$)")
_CITATION = re.compile(r"\s*\[(?:\w+|#\w*)\]_?")
_NOT_PROSE = re.compile(
    r"^(>>>|\.\. |:|@|[-*+=#|~\"'(\[{<]|\d+[.)])|^(Args|Arguments|Returns?|Raises|Yields?|Examples?):"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Z][a-z]*(?:'[a-z]+)?(?:,? [a-z]+(?:[-'][a-z]+)*)+\.")
_FUNCTION_WORDS = frozenset("the a an of to is are was be in that by for with and or from on as if it this not".split())


def paragraphs(text: str) -> list[str]:
    """The paragraphs of running text in a docstring, each on one line, markup removed.

    A paragraph is kept when all its lines start at the margin, it opens with a letter, is not a heading (a line
    underlined by punctuation) or a section's opening, and ends as a sentence does.
    """
    kept = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        indented = any(line[:1].isspace() for line in lines)
        if indented or any(_NOT_PROSE.match(line) for line in lines):
            continue
        line = _without_markup(" ".join(" ".join(lines).split()))
        if line[:1].isalpha() and line.endswith((".", "!", "?")) and len(line.split()) >= 4:
            kept.append(line)
    return kept


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph: cut after a full stop that a capital letter follows."""
    return _SENTENCE_END.split(paragraph)


def is_plain(sentence: str, shortest: int, longest: int) -> bool:
    """Whether a sentence is common English: lower-case words and commas only, with several function words.

    Args:
        sentence: the text.
        shortest: least number of words.
        longest: greatest number of words.
    """
    if not _PLAIN.fullmatch(sentence):
        return False
    words = sentence[:-1].replace(",", "").lower().split()
    common = sum(word in _FUNCTION_WORDS for word in words)
    return shortest <= len(words) <= longest and common >= len(words) / 4


def _without_markup(line: str) -> str:
    for pattern, kept in ((_ROLE, r"\1"), (_QUOTED, r"\1"), (_EMPHASIS, r"\1"), (_CITATION, ""), (_LINK_TAIL, "")):
        line = pattern.sub(kept, line)
    return line
