"""Minutes of training, from floating-point operations and the rate at which this machine multiplies matrices.

A product of a matrix of N weights with one token costs 2 N operations forward, 2 N for the gradient in its input and
2 N for the gradient in its weights. Per token, with N the weights of the blocks and N_h = V D of the head on learned
positions:

    base trains          6 N                 layers computed twice     + 2 N, or their share of it
    base is frozen       4 N + 6 P_t         KL term                   + 2 N + 2 N_h; the 2 N once where kept

    measuring            2 N                 a scored token            + 2 N_h

The rate is that of a large product, times the share of it that whole training steps reach.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeptune.core.cost import Cost
from keeptune.planning.memory import Base, Step

REACHED = 0.5
"""Share of the rate of one large product that training steps reach; between 0.4 and 0.7 on processors and GPUs."""


WRITTEN = 4
"""A token that is written costs as much as so many that are read: its products are too narrow to be fast."""


@dataclass(frozen=True)
class Work:
    """What a stage goes through.

    Attributes:
        tokens: in all steps, virtual ones not counted.
        learned: positions that the loss looks at.
        rows: that the tokens are in.
        answers: in all rows.
    """

    tokens: int
    learned: int
    rows: int = 0
    answers: int = 0


def operations(base: Base, cost: Cost, step: Step, work: Work, *, in_place: bool) -> float:
    """Floating-point operations of a stage."""
    weights = base.shape.matrix_parameters
    head = base.shape.vocabulary * base.shape.width
    per_token = float(6 * weights if in_place else 4 * weights + 6 * cost.trainable_parameters)
    per_token += 2 * weights * step.checkpointed / base.shape.layers
    per_learned = 6 * head if in_place else 4 * head
    once = 0.0
    if step.reference != "none":
        per_learned += 2 * head
        if step.reference == "kept":
            once = 2.0 * weights * step.compared
        else:
            per_token += 2 * weights
    tokens = work.tokens + cost.added(work.rows, work.answers)
    return per_token * tokens + float(per_learned) * work.learned + once


@dataclass(frozen=True)
class Reading:
    """What a measurement goes through.

    Attributes:
        read: tokens that the blocks see.
        scored: tokens that the head scores.
        written: tokens that are generated, one after the other.
    """

    read: int
    scored: int
    written: int

    def __add__(self, other: Reading) -> Reading:
        return Reading(self.read + other.read, self.scored + other.scored, self.written + other.written)

    def __mul__(self, factor: float) -> Reading:
        return Reading(round(self.read * factor), round(self.scored * factor), round(self.written * factor))

    def operations(self, base: Base) -> float:
        """Floating-point operations of forward passes: 2 N a token, and 2 N_h where the head looks."""
        head = base.shape.vocabulary * base.shape.width
        seen = self.read + WRITTEN * self.written
        return 2.0 * base.shape.matrix_parameters * seen + 2.0 * head * (self.scored + WRITTEN * self.written)


def minutes(count: float, rate: float) -> float:
    """So many operations at a rate of products, in operations per second."""
    return count / (rate * REACHED) / 60
