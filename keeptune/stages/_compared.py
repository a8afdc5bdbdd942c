"""Which rows a stage compares with the reference of its KL term, and whether keeping their states pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keeptune.losses import Loss

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.stages._plan import Plan

LIMIT_BYTES = 2 << 30
"""Of states held in memory; a stage with more asks the model itself in every step."""


def compared_rows(losses: Sequence[Loss], plan: Plan) -> list[Encoded]:
    """The rows of a plan that some loss compares with the reference, each once; of a pair both endings."""
    return [ending for row in _drawn(losses, plan) for ending in row.endings]


def _drawn(losses: Sequence[Loss], plan: Plan) -> list[Encoded]:
    sources = [loss.on for loss in losses if loss.needs_reference]
    return [row for row in plan.unique_rows() if None in sources or row.source in sources]


@dataclass(frozen=True)
class Compared:
    """The rows that a stage compares with the reference.

    Attributes:
        tokens: of all of them, each row once.
        again: whether some come more than once.
        apart: whether source and id tell them apart; a long row that was split has one id for all its parts.
    """

    tokens: int
    again: bool
    apart: bool

    @classmethod
    def of(cls, losses: Sequence[Loss], plan: Plan) -> Compared:
        """Of a stage's losses and plan."""
        rows, drawn = compared_rows(losses, plan), _drawn(losses, plan)
        return cls(
            tokens=sum(len(row.tokens) for row in rows),
            again=plan.drawn_from({row.source for row in drawn}) > len(drawn),
            apart=len({(row.source, row.id) for row in rows}) == len(rows),
        )

    def worth_keeping(self, width_bytes: int, *, copied: bool) -> bool:
        """Whether the states of the rows save work or memory, and fit.

        Args:
            width_bytes: of one token's state.
            copied: whether the reference would be a second model.
        """
        return 0 < self.tokens * width_bytes <= LIMIT_BYTES and self.apart and (self.again or copied)


NONE = Compared(0, again=False, apart=True)
