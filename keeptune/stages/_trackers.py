"""Experiment trackers that can never stop a run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

CALLBACKS = {"tensorboard": "TensorBoardCallback", "wandb": "WandbCallback", "trackio": "TrackioCallback"}


class Harmless(TrainerCallback):  # type: ignore[misc]
    """Passes every event on to a tracker; at its first failure says so once, and leaves it alone from then on."""

    def __init__(self, name: str, failed: Callable[[str, str], None]) -> None:
        self.name, self.failed = name, failed
        self.inner: Any = None
        self.alive = True
        self._try(self._open)

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The tracker opens its run."""
        self._try(lambda: self.inner.on_train_begin(args, state, control, **others))

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Numbers of a step."""
        self._try(lambda: self.inner.on_log(args, state, control, **others))

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The tracker closes its run."""
        self._try(lambda: self.inner.on_train_end(args, state, control, **others))

    def _open(self) -> None:
        self.inner = getattr(importlib.import_module("transformers.integrations"), CALLBACKS[self.name])()

    def _try(self, action: Callable[[], Any]) -> None:
        if not self.alive:
            return
        try:
            action()
        except Exception as error:
            self.alive = False
            self.failed(self.name, f"{type(error).__name__}: {error}")
