"""The hand that holds a model to its base: the weight of its KL, as light as a budget allows, found in short runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keeptune.recipes.recipe import Recipe
from keeptune.stages._guard import Guarding, against, means
from keeptune.stages.train import Train
from keeptune.stages.wise_ft import lost_at_most

if TYPE_CHECKING:
    from keeptune.core.checkpoint import Checkpoint

FACTORS = (1 / 3, 0.1, 1 / 30)
"""On the recipe's weight, from a strong hand to a light one."""
GUARD = ["guard.share=0.2"]
"""Of the choice and of the run, whose proof so asks nothing that the choice has seen; a tenth of the suite is too few
to show that two points are not lost."""
ITEMS = 300
"""Most questions of each kind that the choice looks at."""
KL = "kl_to_base"


@dataclass(frozen=True)
class Hand:
    """A short run under one weight.

    Attributes:
        weight: of the KL.
        target: score on dev.
        lost: what was forgotten, at most: a one-sided 95% bound; None where nothing was asked that can be forgotten.
        passed: whether everything lost is inside the budget.
    """

    weight: float
    target: float
    lost: float | None
    passed: bool


def place_of(recipe: Recipe) -> tuple[str, float] | None:
    """The setting of the KL's weight in the last train stage, and its value; None where there is no such loss."""
    index, stage = [(i, one) for i, one in enumerate(recipe.stages) if isinstance(one, Train)][-1]
    found = [(place, loss) for place, loss in enumerate(stage.losses) if loss.name == KL]
    return (f"stages[{index}].losses[{found[0][0]}].weight", found[0][1].weight) if len(found) == 1 else None


def weights(strongest: float) -> list[float]:
    """Those that are tried, in this order."""
    return [strongest, *(float(f"{factor * strongest:.2g}") for factor in FACTORS)]


def tried(weights: Sequence[float], short_run: Callable[[float], Hand]) -> Iterator[Hand]:
    """From the strongest hand on, until the first that does not pass: in a fixed order no look has to be corrected."""
    for weight in weights:
        hand = short_run(weight)
        yield hand
        if not hand.passed:
            return


def measured(weight: float, checkpoint: Checkpoint, guarding: Guarding) -> Hand:
    """What a short run under a weight scores on dev and has lost; what was not asked is not shown to be kept."""
    base, now = guarding.compared(checkpoint)
    found = against(means(base), means(now))
    lost = lost_at_most(base, now) if "guard_forgotten" in found else None
    found["guard_forgotten"] = math.inf if lost is None else lost
    return Hand(weight, found["guard_target"], lost, guarding.spent(found) is None)


def chosen(hands: Sequence[Hand], *, higher: bool = True) -> float:
    """The weight with the best score on dev among those that passed, of equals the strongest; else the strongest."""
    passed = [hand for hand in hands if hand.passed] or hands[:1]
    return min(passed, key=lambda hand: (-hand.target if higher else hand.target, -hand.weight)).weight


def choosing(recipe: Recipe) -> Recipe:
    """The recipe with more of its guard's questions."""
    assert recipe.guard is not None, "GUARD gives it one"
    return recipe.model_copy(update={"guard": recipe.guard.model_copy(update={"items": ITEMS})})


def told(hands: Sequence[Hand], show: Callable[[float], str]) -> str:
    """What the short runs found, in a line."""
    return ", ".join(
        f"{one.weight:g}: {show(one.target)}"
        + ("" if one.lost is None else f", at most {100 * one.lost:.1f} points lost")
        for one in hands
    )
