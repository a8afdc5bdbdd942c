"""A row of tokens of which some are scored: plain data, which needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keeptune.data.starts import UNSAID, Starts


class Scored(NamedTuple):
    """Tokens of which those from `start` on are scored, given all before.

    Attributes:
        tokens: of the row.
        start: at least 1.
        starts: as those of `keeptune.data.encoder.Encoded`.
    """

    tokens: Sequence[int]
    start: int
    starts: Starts = UNSAID
