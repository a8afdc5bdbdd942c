"""The last number of a worked answer is the right one, and every equation on the way holds."""

from __future__ import annotations

import re
from fractions import Fraction

from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.verifiers import Verifier
from keeptune.data.verifiers._arithmetic import value

NUMBER = re.compile(r"\s*(-?\$?\s*[\d,]*\.?\d+)")
EQUATION = re.compile(r"<<([^<>]*)>>")
TOLERANCE = Fraction(1, 1000)


class Number(Verifier):
    """The first number behind `marker` equals that of the gold answer, and |lhs - rhs| < 1e-3 in every `<<lhs=rhs>>`.

    Two answers go the same way when their equations are the same, in order, spaces apart; without equations, when their
    words are. A chain `<<a=b=c>>` holds when all its sides do. Rejection sampling on GSM8K (arXiv:2308.01825).
    """

    marker: str = Field("####", min_length=1, max_length=100, description="what stands before the final number")
    equations: bool = Field(True, description="refuse answers with an equation that does not hold")

    def fault(self, example: Example, answer: str) -> str | None:
        """`no final number`, `wrong number`, `wrong equation`, or None."""
        gold = final_number(example.target, self.marker)
        if gold is None:
            raise DataError(
                f"row {example.id} has no number behind '{self.marker}' in its answer.",
                code="E-VERIFY-ROW",
                where={"line": example.line, "key": example.source or None},
                fix="Set `verifier.marker` to what stands before the final number, or choose another verifier.",
            )
        found = final_number(answer, self.marker)
        if found is None:
            return "no final number"
        if found != gold:
            return "wrong number"
        return "wrong equation" if self.equations and not all(map(holds, EQUATION.findall(answer))) else None

    def way(self, answer: str) -> str:
        """The equations joined by `|`, or the words where there is none."""
        equations = EQUATION.findall(answer)
        return "|".join(re.sub(r"\s", "", each) for each in equations) if equations else super().way(answer)


def final_number(text: str, marker: str) -> Fraction | None:
    """The number right behind the first `marker`.

    >>> final_number("6*7 = <<6*7=42>>42 #### 1,042", "####")
    Fraction(1042, 1)
    """
    _, found, rest = text.partition(marker)
    match = NUMBER.match(rest) if found else None
    return value(match.group(1)) if match else None


def holds(equation: str) -> bool:
    """Whether all sides of `a=b=...` have the same value, within 1e-3.

    >>> holds("3/5*25=15"), holds("10/3=3.33333"), holds("2*2=5"), holds("2+3=5*2=10"), holds("7")
    (True, True, False, False, False)
    """
    sides = [value(side) for side in equation.split("=")]
    first = sides[0]
    return (
        len(sides) > 1
        and first is not None
        and all(side is not None and abs(side - first) < TOLERANCE for side in sides)
    )
