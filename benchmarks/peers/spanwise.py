"""A callback that lets a trainer's own loop take turns of several steps, timed as one span."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from benchmarks.peers.clock import clock_of
from benchmarks.peers.pipe import Turns
from benchmarks.peers.stepwise import Stepwise


class Spanwise(TrainerCallback):  # type: ignore[misc]
    """Waits before a turn, and answers when the step behind its last one is about to begin.

    The steps that lead in are timed apart: memory that was given back for the others comes back in them. The span is
    the rest. Both go from the beginning of a step to the beginning of another, so that whatever the loop does once a
    step, collating and logging too, is counted once a step; and inside a span nobody waits for the GPU who would not
    wait anyway.

    Args:
        turns: the pipe.
        device: `cuda` or `cpu`.
        also: what else belongs to an answer.
    """

    def __init__(self, turns: Turns, device: str, also: Callable[[], dict[str, Any]]) -> None:
        self.turns, self.clock, self.also = turns, clock_of(device), also
        self.losses: list[float] = []
        self._turn: dict[str, Any] = {}
        self._begun = 0
        self._lead: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """What loading took at most does not count."""
        self.clock.rest()
        self.clock.forget_peak()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Ends a turn or what leads into it, and waits where there is none.

        A turn is asked for by `lead` and `steps`, at least one of each, and `lend`: whether memory is given back.
        """
        if self._turn and self._begun == self._turn["lead"] + self._turn["steps"]:
            self._answer()
        if not self._turn:
            self._turn, self._begun = self.turns.wait(), 0
            self.clock.start()
        elif self._begun == self._turn["lead"]:
            self._lead = self.clock.stop()
            self.clock.start()
        self._begun += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keeps what the trainer logs."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def _answer(self) -> None:
        span, found = self.clock.stop(), self.clock.memory()
        if self._turn["lend"]:
            self.clock.rest()
        self._turn = {}
        lead = self._lead["wall_seconds"]
        self.turns.answer(**span, lead_seconds=lead, **found, losses=self.losses, **self.also())


def watcher(settings: dict[str, Any], turns: Turns, also: Callable[[], dict[str, Any]] = dict) -> Stepwise | Spanwise:
    """The callback that a contestant was asked to take its turns by.

    Args:
        settings: `turns`, which are `steps` or `spans`, and `device`.
        turns: the pipe.
        also: what else belongs to an answer of spans.
    """
    return Spanwise(turns, settings["device"], also) if settings["turns"] == "spans" else Stepwise(turns)
