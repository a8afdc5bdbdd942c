"""The decision table: what a situation calls for, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keeptune.recipes.baselines import Baseline

FEW_ROWS = 5000


@dataclass(frozen=True)
class Situation:
    """What is known before anything is trained.

    Attributes:
        kind: of the model.
        rows: of training.
        worked: whether the answers end in a number that can be checked.
        fits: whether LoRA on the base as it is fits into memory.
        baselines: the base's scores on dev.
        goal: the score that is wanted; None: as good as it gets.
        higher: whether a higher score is better.
    """

    kind: Literal["decoder", "encoder", "encoder_decoder", "image"]
    rows: int
    worked: bool
    fits: bool
    baselines: Sequence[Baseline] = ()
    goal: float | None = None
    higher: bool = True

    def shown(self, score: float) -> str:
        """As people read it: shares in percent, bits per byte as they are."""
        return f"{100 * score:.1f}%" if self.higher else f"{score:.3f}"


@dataclass(frozen=True)
class Decision:
    """One choice: what, and because of what."""

    what: str
    because: str


def enough(situation: Situation) -> Baseline | None:
    """The baseline with the fewest examples whose worse end reaches the goal."""
    if situation.goal is None:
        return None
    for baseline in sorted(situation.baselines, key=lambda one: one.shots):
        if baseline.low >= situation.goal if situation.higher else baseline.high <= situation.goal:
            return baseline
    return None


def recipe_of(situation: Situation) -> Literal["keep", "lp_ft"]:
    """`lp_ft` for labels on an encoder, else the keep recipe."""
    return "lp_ft" if situation.kind == "encoder" else "keep"


def decisions(situation: Situation) -> list[Decision]:
    """Everything that follows from the situation, in the order in which a run meets it."""
    found = [_training(situation)]
    if enough(situation) is not None:
        return found
    if recipe_of(situation) == "lp_ft":
        found.append(Decision("a head first, then head and body (lp_ft)", _head_first(situation)))
    else:
        found.append(
            Decision(
                "LoRA on all linear maps" + ("" if situation.fits else ", the base in 4 bits"),
                "taken off, it leaves the base bitwise, and it forgets less than full tuning"
                + ("" if situation.fits else "; the base as it is does not fit into memory"),
            )
        )
        found.append(
            Decision(
                "half of the tokens are the base's own text, with a KL to the base on them",
                "no general data was named; this kept abilities and format where plain tuning lost both (docs/log.md)",
            )
        )
        found.append(
            Decision("the guard, with a budget of 2 points", "training ends in time, with the best commit inside it")
        )
    if situation.worked:
        found.append(Decision("next: rft", "answers that can be checked let the model learn from its own right ones"))
    return found


def _training(situation: Situation) -> Decision:
    show = situation.shown
    shown = ", ".join(
        f"{one.shots}-shot {show(one.score)} ({show(one.low)} to {show(one.high)})" for one in situation.baselines
    )
    met = enough(situation)
    if met is not None:
        way = "as it is" if met.shots == 0 else f"with {met.shots} examples before the question"
        return Decision("no training", f"the base {way} reaches {show(situation.goal or 0)} already: {shown}")
    wanted = "the goal is not reached without" if situation.goal is not None else "no goal was named"
    asked = f"; the base on {_rows(situation)} dev rows: {shown}" if shown else "; an encoder says nothing by itself"
    return Decision("training", wanted + asked)


def _head_first(situation: Situation) -> str:
    few = f"{situation.rows:,} rows are few for a whole encoder, and " if situation.rows < FEW_ROWS else ""
    return f"{few}a random head would bend the features that it is to read (arXiv:2202.10054)"


def _rows(situation: Situation) -> int:
    return max((one.n for one in situation.baselines), default=0)
