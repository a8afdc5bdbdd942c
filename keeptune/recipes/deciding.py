"""The decision table: what a situation calls for, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keeptune.core.counting import counted
from keeptune.recipes.baselines import Baseline

BUDGET = ("forget=2pt",)
"""What may be lost unless a user says otherwise."""
FEW_ROWS, MANY_ROWS = 5000, 50_000
LARGE = 1_000_000_000
"""Parameters below which a soft prompt is weak (arXiv:2104.08691)."""


@dataclass(frozen=True)
class Situation:
    """What is known before anything is trained.

    Attributes:
        recipe: that fits data and model: `keep`, `lp_ft` (labels by a head), `masked` (texts, by masked tokens).
        answers: what is learned: one of a few labels, worked answers that end in a number, prose, or plain texts.
        rows: of training.
        parameters: of the model.
        fits: whether LoRA on the base as it is fits into memory.
        baselines: the base's scores on dev.
        goal: the score that is wanted; None: as good as it gets.
        budget: what may be lost, in the words of `--budget`.
        higher: whether a higher score is better.
    """

    recipe: Literal["keep", "lp_ft", "masked"]
    answers: Literal["labels", "worked", "prose", "texts"]
    rows: int
    parameters: int
    fits: bool
    baselines: Sequence[Baseline] = ()
    goal: float | None = None
    budget: Sequence[str] = BUDGET
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


def decisions(situation: Situation) -> list[Decision]:
    """Everything that follows from the situation, in the order in which a run meets it."""
    found = [_training(situation)]
    if enough(situation) is not None:
        return found
    ways = {"keep": _keep, "lp_ft": _head_first, "masked": _masked}
    return [*found, *ways[situation.recipe](situation), *_next(situation)]


def _training(situation: Situation) -> Decision:
    show = situation.shown
    shown = ", ".join(
        f"{one.shots}-shot {show(one.score)} ({show(one.low)} to {show(one.high)})" for one in situation.baselines
    )
    met = enough(situation)
    if met is not None:
        way = "as it is" if met.shots == 0 else f"with {counted(met.shots, 'example')} before the question"
        return Decision("no training", f"the base {way} reaches {show(situation.goal or 0)} already: {shown}")
    wanted = "the goal is not reached without" if situation.goal is not None else "no goal was named"
    asked = (
        f"; the base on {counted(_rows(situation), 'dev row')}: {shown}"
        if shown
        else "; without a head the base says nothing"
    )
    return Decision("training", wanted + asked)


def _keep(situation: Situation) -> list[Decision]:
    whole = situation.fits
    return [
        Decision(
            "LoRA on all linear maps" + ("" if whole else ", the base in 4 bits"),
            "taken off, it leaves the base bitwise, and it forgets less than full tuning"
            + ("" if whole else "; the base as it is does not fit into memory"),
        ),
        Decision(
            "half of the tokens are the base's own text, with a KL to the base on them",
            "no general data was named; this kept abilities and format where plain tuning lost both (docs/log.md)",
        ),
        Decision(
            f"the guard, with the budget {', '.join(situation.budget)}",
            "training ends in time, with the best commit inside it",
        ),
    ]


def _head_first(situation: Situation) -> list[Decision]:
    few = (
        f"{counted(situation.rows, 'row is', 'rows are')} few for a whole encoder, and "
        if situation.rows < FEW_ROWS
        else ""
    )
    because = f"{few}a random head would bend the features that it is to read (arXiv:2202.10054)"
    return [Decision("a head first, then head and body (lp_ft)", because)]


def _masked(situation: Situation) -> list[Decision]:
    return [Decision("LoRA, by masked tokens", "an encoder reads on as it learned to read; taken off, it is the base")]


def _next(situation: Situation) -> list[Decision]:
    """What to try after this run, and when."""
    found = []
    if situation.answers == "worked":
        because = "answers that can be checked let the model learn from its own right ones"
        found.append(Decision("next: rft", because))
    if situation.answers == "prose":
        because = "the answers are somebody else's words; said in its own, they move it less (arXiv:2402.13669)"
        found.append(Decision("next, if abilities fall: self_rewrite", because))
    if situation.recipe == "keep" and situation.answers == "labels" and situation.parameters >= LARGE:
        because = (
            "one model for all, whose answers off the task stay free: a soft prompt takes up the form of the labels"
        )
        found.append(Decision("next, if the format leaks: promot", because))
    if situation.recipe == "keep" and situation.answers != "texts":
        because = (
            "with every weight and a light KL on a fifth of the tokens more is learned, and more is risked; the base "
            "changes"
        )
        found.append(Decision("next, if points may be lost: instruction_kl", because))
    if situation.recipe == "keep" and situation.answers == "texts":
        because = (
            "a KL on half of the tokens holds facts back; they want every weight, a hotter rate, and little replay"
        )
        found.append(Decision("next, if facts are missing: new_knowledge", because))
    if situation.rows > MANY_ROWS:
        because = f"a chosen share of {situation.rows:,} rows may do as well; hold it against drawn ones"
        found.append(Decision("next: keeptune data select", because))
    return found


def _rows(situation: Situation) -> int:
    return max((one.n for one in situation.baselines), default=0)
