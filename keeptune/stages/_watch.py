"""What happens after every step: record, look at dev, commit, snapshot, stop."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from keeptune.stages._progress import Track
from keeptune.stages._random import RandomState
from keeptune.stages._session import Diverging, Session
from keeptune.stages._trainer import StepTrainer


class Watch(TrainerCallback):  # type: ignore[misc]
    """Follows one session.

    Attributes:
        trainer: set once it exists.
        interrupted: whether a signal ended the session early.
    """

    def __init__(self, session: Session, track: Track, *, logs: bool) -> None:
        self.session, self.track, self.logs = session, track, logs
        self.trainer: StepTrainer | None = None
        self.interrupted = False
        self.began = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Starts the step's clock."""
        self.began = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Lets the method look at the gradients of the step that was just made."""
        self.session.after_step(int(state.global_step) + 1, self.session.total)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Between two steps; everything here leaves the generators as they were."""
        assert self.trainer is not None
        session, saving, step = self.session, self.session.stage.saving, int(state.global_step)
        seconds = time.monotonic() - self.began
        session.notice_stillness(self.trainer.result)
        stopping = session.run.stop_requested.is_set()
        due = step % saving.commit_every(session.total) == 0 or step == session.total
        generators = RandomState.capture()
        measured = {} if stopping else self._look(step)
        better = bool(measured) and self._compare(step, measured)
        guarded = {} if stopping else self._guard(step)
        better |= bool(guarded) and self._weigh(step, guarded)
        if (due or better or stopping or session.counters.ended) and session.counters.unsound == 0:
            self._require_sound(step)
            control.should_save = True
        if step in saving.snapshot_steps(session.total) and session.counters.unsound == 0:
            self._require_sound(step)
            session.snapshot(step)
        generators.restore()
        self._record(step, seconds, measured | guarded)
        control.should_log = self.logs
        control.should_training_stop = control.should_training_stop or stopping or session.counters.ended
        self.interrupted = stopping and step < session.total and not session.counters.ended

    def _record(self, step: int, seconds: float, measured: dict[str, float]) -> None:
        assert self.trainer is not None
        numbers = {**self.trainer.numbers, **measured}
        self.session.run.metric(step, stage=self.session.label, **numbers, seconds=round(seconds, 4))
        self.track.advance(loss=numbers["loss"], lr=numbers["lr"])

    def _look(self, step: int) -> dict[str, float]:
        """What dev says, when its turn comes."""
        session, saving = self.session, self.session.stage.saving
        every = saving.dev_every or saving.commit_every(session.total)
        if session.look is None or (step % every and step != session.total):
            return {}
        return session.look()

    def _compare(self, step: int, measured: dict[str, float]) -> bool:
        """Whether this is the best so far; counts the patience."""
        session, counters, saving = self.session, self.session.counters, self.session.stage.saving
        score = measured["dev_score"] if "dev_score" in measured else -measured["dev_loss"]
        if counters.best is None or score > counters.best:
            counters.best, counters.best_step, counters.stale = score, step, 0
            session.protect()
            return saving.best
        counters.stale += 1
        if saving.patience is not None and counters.stale >= saving.patience and step < session.total:
            counters.ended = True
            session.run.event("stopped_early", stage=session.label, step=step, best_step=counters.best_step)
        return False

    def _guard(self, step: int) -> dict[str, float]:
        """What the guard sees, when its turn comes."""
        session = self.session
        if session.guarding is None:
            return {}
        due = step % session.guarding.guard.look_every(session.total) == 0 or step == session.total
        return session.guard_look() if due else {}

    def _weigh(self, step: int, guarded: dict[str, float]) -> bool:
        """Whether this is the best step inside the budget so far; ends the stage at the first one beyond it."""
        session, counters = self.session, self.session.counters
        if session.guarding is None or not session.budgeted:
            return False
        beyond = session.guarding.spent(guarded)
        if beyond is not None:
            counters.spent = counters.ended = True
            session.run.event("budget_spent", stage=session.label, step=step, kept_step=counters.inside_step, **beyond)
            return False
        score = session.guarding.worth(guarded, step)
        if counters.inside is not None and score < counters.inside:
            return False
        counters.inside, counters.inside_step = score, step
        session.protect()
        return True

    def _require_sound(self, step: int) -> None:
        """Weights are committed only after they gave a sound loss and gradient: one more look at the last batch."""
        session, objective = self.session, self.session.objective
        with objective.masters.unremembered():
            result = objective.backward(session.plan.rows(step - 1))
        objective.masters.drop_gradients()
        if not (objective.masters.finite() and session.sound(result)):
            session.run.event(
                "commit_refused", stage=session.label, step=step, loss=result.loss, gradient_norm=result.norm
            )
            raise Diverging(f"the weights after step {step} give the loss {result.loss}")
