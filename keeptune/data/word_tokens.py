"""Which tokens a unit of text is made of: words of a sentence, or a whole text pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keeptune.data.control_tokens import ControlTokens, Span
from keeptune.data.encoder import Encoded
from keeptune.data.text_encoder import frame
from keeptune.data.treebank import Sentence

Pooling = Literal["cls", "mean", "last"]
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class UnitRow:
    """A text as tokens, and the tokens of each of its units.

    Attributes:
        encoded: the tokens, nothing of them learned.
        units: positions of each unit's tokens; its state is their mean. A unit without tokens (a tokenizer may drop
            control characters) has none.
    """

    encoded: Encoded
    units: tuple[Tokens, ...]


class UnitEncoder:
    """Writes texts in the tokenizer's own frame of special tokens, without a chat template.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        ModelError: it is none (E-TOKENIZER-SLOW).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._control = ControlTokens(tokenizer)
        self._before, self._behind = frame(tokenizer)

    def words(self, sentence: Sentence) -> UnitRow:
        """The sentence as it is written, a unit per word; a token across two words belongs to both.

        Words are looked for in the text from left to right. Where one is not there (`del` written, `de` and `el`
        annotated), the whole sentence is written as its words with blanks between them.
        """
        text, places = sentence.text, _places(sentence.words, sentence.text)
        if places is None:
            text = " ".join(sentence.words)
            places = _places(sentence.words, text)
            assert places is not None, "a text that was put together from words has them all"
        ids, spans = self._control.encode(text, [(0, len(text))])
        start = len(self._before)
        units = [
            tuple(start + place for place, span in enumerate(spans) if _share(span, word, text)) for word in places
        ]
        return UnitRow(self._row(sentence.id, ids), tuple(units))

    def text(self, name: str, text: str, pooling: Pooling) -> UnitRow:
        """A whole text as one unit: its first token, all of its tokens, or its last one.

        `cls` is the first token of the frame; `mean` and `last` leave the frame out.
        """
        ids, _ = self._control.encode(text, [(0, len(text))])
        row = self._row(name, ids)
        inner = range(len(self._before), len(self._before) + len(ids))
        chosen = {"cls": range(1), "mean": inner, "last": inner[-1:]}[pooling]
        return UnitRow(row, (tuple(chosen),))

    @property
    def framed(self) -> bool:
        """Whether a special token begins each text."""
        return bool(self._before)

    def _row(self, name: str, ids: Sequence[int]) -> Encoded:
        tokens = (*self._before, *ids, *self._behind)
        return Encoded(name, "", tokens, (False,) * len(tokens))


def _places(words: Sequence[str], text: str) -> list[Span] | None:
    """Where each word stands in the text, one behind the other; None when one is not there."""
    found, reached = [], 0
    for word in words:
        start = text.find(word, reached)
        if start < 0 or text[reached:start].strip():
            return None
        reached = start + len(word)
        found.append((start, reached))
    return found


def _share(span: Span, word: Span, text: str) -> bool:
    """Whether a token and a word have a character in common that is no blank."""
    start, end = max(span[0], word[0]), min(span[1], word[1])
    return start < end and not text[start:end].isspace()
