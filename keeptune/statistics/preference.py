"""Win, tie, lose: how much more often one side is preferred, with an interval.

Of n pairs the new side wins g, loses l, and ties the rest: the net preference (g - l) / n is a difference of paired
proportions, so Tango's score interval holds it as it holds flips (`paired_score`). A pair that is judged in both orders
is a win only when both orders say so; a judge that prefers a place says nothing, and its pairs are ties.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.paired_score import score_interval

Outcome = Literal["win", "tie", "lose"]


@dataclass(frozen=True)
class Preference:
    """Counts, and the net preference (wins - losses) / n with its interval."""

    wins: int
    ties: int
    losses: int
    net: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def n(self) -> int:
        """Pairs."""
        return self.wins + self.ties + self.losses


def in_both_orders(first: Outcome, swapped: Outcome) -> Outcome:
    """One outcome of two, both told from the new side: what the two orders agree on, else a tie.

    >>> in_both_orders("win", "win"), in_both_orders("win", "lose"), in_both_orders("win", "tie")
    ('win', 'tie', 'tie')
    """
    return first if first == swapped else "tie"


def preference(outcomes: Iterable[Outcome], level: float = LEVEL) -> Preference:
    """Counts the outcomes.

    Raises:
        ValueError: there are none.
    """
    told = list(outcomes)
    if not told:
        raise ValueError("a preference needs at least one pair")
    wins, losses = told.count("win"), told.count("lose")
    low, high = (float(end) for end in score_interval(len(told), wins, losses, level=level))
    return Preference(wins, len(told) - wins - losses, losses, (wins - losses) / len(told), low, high, level)
