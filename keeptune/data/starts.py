"""Where in a row its parts begin: the texts of its request, and the answers of its conversation."""

from __future__ import annotations

from typing import NamedTuple

LOST = -1
"""In the place of an answer that cannot be found in what the chat template writes."""


class Starts(NamedTuple):
    """Indices into the tokens of one row, each list ascending.

    Attributes:
        texts: of a request of several texts, the token at which each but the first begins; none in an encoder's row,
            where separators say so.
        answers: of a decoder's conversation, the token at which each answer begins, the one that is to be written
            included; none where nobody says.
    """

    texts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()

    def within(self, length: int) -> Starts:
        """Those of the row's first `length` tokens; an answer may begin right behind them."""
        texts = tuple(start for start in self.texts if start < length)
        return Starts(texts, tuple(start for start in self.answers if start <= length))


UNSAID = Starts()
"""Nobody says."""
