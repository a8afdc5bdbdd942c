"""Where a row of tokens forks into two endings: a better and a worse answer to one prompt."""

from __future__ import annotations

from typing import NamedTuple


class Fork(NamedTuple):
    """Of a row whose tokens are the prompt, the better answer, and what the worse one has of its own.

    Attributes:
        shared: tokens that both endings begin with: the prompt less its last token, which each ending keeps, for it
            predicts another one in either.
        second: token at which the worse ending's own part begins; before it stands the better one, whole.
    """

    shared: int
    second: int
