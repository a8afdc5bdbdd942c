"""A row as the model sees it: every token with its text, and whether it is learned, only seen, or cut off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keeptune.data.encoder import Encoded

State = Literal["learned", "seen", "cut"]
SHADES = " .:-=+*#%@"
UNDECODED = "\ufffd"
LONGEST_LETTER = 4
"""Bytes of a letter in UTF-8, and so the most tokens that one can span."""


@dataclass(frozen=True)
class TokenView:
    """One token for `keeptune check`."""

    id: int
    text: str
    state: State


def check_view(encoded: Encoded, tokenizer: Any, context: int | None = None) -> list[TokenView]:
    """The tokens of one row, in order.

    Args:
        encoded: a row, before any cut.
        tokenizer: of transformers; None of an image encoder, whose rows are pixels.
        context: tokens from this place on are `cut`; None when the row fits.

    Returns:
        Views whose texts joined are the decoded row; a letter that spans several tokens stands at the last of them.
    """
    if tokenizer is None:
        return _shaded(encoded.tokens)
    views = []
    texts = _texts(encoded.tokens, tokenizer)
    for place, (token, learned, text) in enumerate(zip(encoded.tokens, encoded.learned, texts, strict=True)):
        state: State = "cut" if context is not None and place >= context else "learned" if learned else "seen"
        views.append(TokenView(token, text, state))
    return views


def _shaded(pixels: Sequence[int]) -> list[TokenView]:
    """The pixels of a row as shades, a square of one channel line by line."""
    width = math.isqrt(len(pixels))
    ends = range(width - 1, len(pixels), width) if width * width == len(pixels) else ()
    shades = [SHADES[level * len(SHADES) // 256] for level in pixels]
    return [
        TokenView(level, shade + ("\n" if place in ends else ""), "seen")
        for place, (level, shade) in enumerate(zip(pixels, shades, strict=True))
    ]


def _texts(tokens: Sequence[int], tokenizer: Any) -> Iterator[str]:
    """Each token's text; nothing for those in the middle of a letter."""
    before: list[int] = []
    letter: list[int] = []
    for place, token in enumerate(tokens):
        letter.append(token)
        text = _text(letter, before, tokenizer)
        if text.endswith(UNDECODED) and len(letter) < LONGEST_LETTER and place < len(tokens) - 1:
            yield ""
        else:
            yield text
            before, letter = letter, []


def _text(tokens: list[int], before: list[int], tokenizer: Any) -> str:
    """The text of tokens after the ones before them: decoders drop the space of a token that stands alone."""
    start = _decoded(before, tokenizer)
    both = _decoded([*before, *tokens], tokenizer)
    return both[len(start) :] if both.startswith(start) else _decoded(tokens, tokenizer)


def _decoded(tokens: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
