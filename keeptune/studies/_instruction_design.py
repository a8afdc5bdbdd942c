"""What a study of instruction data trains and measures: arms by name, exams by name, and which arms are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from keeptune.core.example import Example
from keeptune.data.normalise import question

BASE = "base"
"""The arm that is not trained."""

Rows = tuple[Example, ...]


@dataclass(frozen=True)
class Contrast:
    """One comparison.

    Attributes:
        question: that it answers.
        first: arm.
        second: arm that it is held against.
        exam: on which both are measured.
    """

    question: str
    first: str
    second: str
    exam: str


@dataclass
class Design:
    """What is to be done.

    Attributes:
        arms: by name, the training rows for a seed.
        exams: by name, rows that no arm is trained on.
        contrasts: in the order of the page.
        refused: questions that cannot be asked of this data, with the reason.
    """

    arms: dict[str, Callable[[int], Rows]] = field(default_factory=dict)
    exams: dict[str, Rows] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def compare(self, question: str, first: str, second: str, *exams: str) -> None:
        """Adds a comparison on each exam that has rows."""
        self.contrasts += [Contrast(question, first, second, exam) for exam in exams if self.exams.get(exam)]

    def measured(self, arm: str) -> list[str]:
        """The exams of an arm, in the order in which they are first asked for."""
        return list(dict.fromkeys(one.exam for one in self.contrasts if arm in (one.first, one.second)))


def drawn(rows: Sequence[Example], count: int | None, seed: int) -> Rows:
    """So many rows in an order that the seed draws; a smaller number is the beginning of a larger one."""
    order = list(rows)
    Random(f"{seed}|drawn").shuffle(order)
    return tuple(order[:count])


def unlike(rows: Iterable[Example], exam: Iterable[Example]) -> Rows:
    """The rows that ask nothing which the exam asks."""
    asked = {question(row) for row in exam}
    return tuple(row for row in rows if question(row) not in asked)
