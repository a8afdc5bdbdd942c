"""Which tokens a part of a text covers, found by counting added tokens: no token has to say which letters are its own.

A tokenizer takes its added tokens (`<|end|>`) out of a text before it does anything else. As many of their ids come out
as stand in the text, in the same order, so what begins and ends behind such tokens is found from the ids alone. Where
that is not so (a part begins elsewhere, a token takes white space with it, a word gives the same id), nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any


@dataclass(frozen=True)
class Borders:
    """Letters of one text that stand right behind added tokens.

    Attributes:
        added: ids of all added tokens of the text, in order.
        behind: letter to the number of the added token that ends before it.
    """

    added: tuple[int, ...]
    behind: Mapping[int, int]


class AddedTokens:
    """The added tokens of one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        normalised = tokenizer.backend_tokenizer.normalizer is not None
        self._ids = {token.content: number for number, token in added.items()}
        self._known = frozenset(added)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or r"(?!)")
        self._exact = not any(
            token.lstrip or token.rstrip or token.single_word or (token.normalized and normalised)
            for token in added.values()
        )

    def borders(self, text: str, letters: Iterable[int]) -> Borders | None:
        """Where the letters lie among the added tokens; None when one stands elsewhere."""
        if not self._exact:
            return None
        found = list(self._pattern.finditer(text))
        behind = {token.end(): number for number, token in enumerate(found)}
        if any(letter not in behind for letter in letters):
            return None
        return Borders(tuple(self._ids[token.group()] for token in found), behind)

    def tokens_behind(self, ids: Sequence[int], borders: Borders) -> dict[int, int] | None:
        """Letter to the token that begins there; None when a word of the text gives the id of an added token too."""
        places = list(compress(range(len(ids)), map(self._known.__contains__, ids)))
        if tuple(ids[place] for place in places) != borders.added:
            return None
        return {letter: places[number] + 1 for letter, number in borders.behind.items()}
