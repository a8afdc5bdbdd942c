"""A callback that lets a trainer's own loop take one step at a time, when the parent says so."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from benchmarks.peers.pipe import Turns, forget_peak


class Stepwise(TrainerCallback):  # type: ignore[misc]
    """Waits before each step and answers behind it.

    What happens between two steps (collating a batch, logging) falls into the time of the step that follows, so every
    second of the loop is counted once.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Waits for the turn."""
        if self.turns.wait().get("forget_peak"):
            forget_peak()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Says what the step took, and the losses that were logged so far."""
        self.turns.answer(losses=self.losses)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keeps what the trainer logs; it does so behind `on_step_end`."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
