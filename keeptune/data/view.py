"""A row as the model sees it: every token with its text, and whether it is learned, only seen, or cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keeptune.data.encoder import Encoded

State = Literal["learned", "seen", "cut"]
SHADES = " .:-=+*#%@"


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
        Views whose texts joined are the decoded row, save for letters that span several tokens, which show as U+FFFD.
    """
    if tokenizer is None:
        return _shaded(encoded.tokens)
    views = []
    before: int | None = None
    for place, (token, learned) in enumerate(zip(encoded.tokens, encoded.learned, strict=True)):
        state: State = "cut" if context is not None and place >= context else "learned" if learned else "seen"
        views.append(TokenView(token, _text(token, before, tokenizer), state))
        before = token
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


def _text(token: int, before: int | None, tokenizer: Any) -> str:
    """A token's text after the token before it: decoders drop the space of a token that stands alone."""
    if before is None:
        return _decoded([token], tokenizer)
    start = _decoded([before], tokenizer)
    pair = _decoded([before, token], tokenizer)
    return pair[len(start) :] if pair.startswith(start) else _decoded([token], tokenizer)


def _decoded(tokens: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
