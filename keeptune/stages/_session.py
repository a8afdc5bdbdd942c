"""One training session: what the trainer, its callbacks and its commits share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from keeptune.stages._commits import Commits
from keeptune.stages._plan import Plan
from keeptune.stages._step import Objective, StepResult

if TYPE_CHECKING:
    from keeptune.core.run import Run
    from keeptune.stages._guard import Guarding
    from keeptune.stages.train import Train

IN_A_ROW = 3
STILL = 10
VANISHED = 1e-3  # nats per token: below it, a gradient of exactly zero is success


class Diverging(Exception):
    """Several steps in a row were not finite; caught by the stage, which rolls back."""


@dataclass
class Counters:
    """What must survive a kill, beside weights, optimiser and generators.

    Attributes:
        rate_scale: 1, or 0.5 after a roll-back.
        micro_batch_tokens: what memory allowed so far.
        threads: CPU threads; another number of them would sum in another order.
        unsound: steps in a row whose loss or gradient was not finite.
        alive: whether there was a gradient yet.
        best: best dev score so far.
        best_step: the step it was reached at.
        stale: looks at dev since.
        losses: the last few, to see that nothing moves.
        norms: likewise, of the gradient.
        still: whether that was said already.
        ended: whether patience ran out, or the budget.
        inside: best target score of a look of the guard inside the budget.
        inside_step: the step it was reached at; 0: as the stage began.
        spent: whether the budget is.
    """

    rate_scale: float
    micro_batch_tokens: int
    threads: int
    unsound: int = 0
    alive: bool = False
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    still: bool = False
    ended: bool = False
    inside: float | None = None
    inside_step: int | None = None
    spent: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Counters:
        """The inverse of `to_dict`."""
        return cls(**{entry.name: plain[entry.name] for entry in fields(cls) if entry.name in plain})


@dataclass
class Session:
    """The parts of a training session.

    Attributes:
        stage: its settings.
        run: where it is recorded.
        label: the stage's id.
        plan: the rows of every step.
        objective: losses and gradients.
        commits: where the state is kept.
        counters: the rest of the state.
        look: one look at dev: `dev_score` or `dev_loss`; None without dev data.
        guarding: the guard, if there is one.
        guard_look: one look of it.
        snapshot: writes the checkpoint of a step.
        after_step: tells the method of a step, by its number and their total.
        vocabulary: rows of the head.
    """

    stage: Train
    run: Run
    label: str
    plan: Plan
    objective: Objective
    commits: Commits
    counters: Counters
    look: Callable[[], dict[str, float]] | None
    guarding: Guarding | None
    guard_look: Callable[[], dict[str, float]]
    snapshot: Callable[[int], None]
    after_step: Callable[[int, int], None]
    vocabulary: int

    @property
    def total(self) -> int:
        """Optimiser steps of the whole stage."""
        return len(self.plan)

    @property
    def budgeted(self) -> bool:
        """Whether a guard may end the stage."""
        return self.guarding is not None and bool(self.guarding.guard.budget.limits)

    def protect(self) -> None:
        """Keeps the commits that the output may be taken from."""
        best = self.counters.best_step if self.stage.saving.best else None
        steps = {step for step in (best, self.counters.inside_step) if step is not None}
        self.commits.protected = {self.commits.path(step) for step in steps}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at `step`."""
        return self.counters.rate_scale * self.stage.optimizer.factor(step, self.total)

    def sound(self, result: StepResult) -> bool:
        """Whether loss and gradient can be used.

        Both must be finite. A uniform guess costs ln V; ten times that is a model that has been blown up, even where it
        is still finite. And norms can hide an explosion: hidden states that overflow inside a norm come out as zeros,
        with a loss of exactly ln V and no gradient. So a gradient that was there must not vanish before the loss does.
        """
        limit = 10 * math.log(max(self.vocabulary, 3)) * sum(loss.weight for loss in self.stage.losses)
        dead = self.counters.alive and result.norm == 0 and result.loss > VANISHED
        return math.isfinite(result.loss) and math.isfinite(result.norm) and result.loss < limit and not dead

    def judge(self, step: int, result: StepResult) -> bool:
        """Whether the step may be taken; records one that may not.

        Raises:
            Diverging: it is the third in a row.
        """
        if self.sound(result):
            self.counters.unsound = 0
            self.counters.alive |= result.norm > 0
            return True
        self.counters.unsound += 1
        rows = [f"{row.source}/{row.id}" for row in self.plan.rows(step)]
        self.run.event(
            "step_skipped", stage=self.label, step=step + 1, loss=result.loss, gradient_norm=result.norm, rows=rows
        )
        if self.counters.unsound >= IN_A_ROW:
            raise Diverging(f"loss {result.loss}, gradient norm {result.norm} at step {step + 1}")
        return False

    def notice_stillness(self, result: StepResult) -> None:
        """Says once that nothing is learning: no gradient, or the very same loss, for several steps."""
        losses, norms = deque(self.counters.losses, STILL), deque(self.counters.norms, STILL)
        losses.append(result.loss)
        norms.append(result.norm)
        self.counters.losses, self.counters.norms = list(losses), list(norms)
        if self.counters.still or len(losses) < STILL:
            return
        reason = "the gradient is zero" if not any(norms) else "the loss does not move" if len(set(losses)) == 1 else ""
        if reason:
            self.counters.still = True
            self.run.event("nothing_is_learning", stage=self.label, steps=STILL, reason=reason)
