"""Text as comparisons see it: letters and digits of any script, in one case, without punctuation or layout."""

from __future__ import annotations

import re
import unicodedata

from keeptune.core.example import Example

# A word, or one ideograph or kana: scripts without spaces are compared letter by letter.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")

ASCII_WORDS = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def words(text: str) -> list[str]:
    """The words of `text` after NFKC and case folding.

    >>> words("Ｗhat's THE time？ 现在几点")
    ['what', 's', 'the', 'time', '现', '在', '几', '点']
    """
    if text.isascii():
        return text.translate(ASCII_WORDS).split()  # the same, eight times as fast
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def question(example: Example) -> str:
    """What is asked: every turn before the last answer, without the system's; the text of a document. Normalised."""
    if example.text is not None:
        return " ".join(words(example.text))
    return " ".join(words("\n".join(turn.content for turn in example.prompt if turn.role != "system")))


def whole(example: Example) -> list[str]:
    """All words of an example, without the system turn, which is often the same in every row."""
    if example.text is not None:
        return words(example.text)
    return words("\n".join(turn.content for turn in example.messages if turn.role != "system"))
