"""The guard: what the model in training has lost so far, and whether that is still inside the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.score import Score
from keeptune.core.spec import Spec
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._stored import measure_once

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

TRAINING = "the model in training"


class Budget(Spec):
    """What may be lost, against the base; training stops when one of them is spent."""

    forget: float | None = Field(
        None, ge=0, le=1, description="points of ability lost, or of requests answered in the training format; 0.02: 2"
    )
    bits: float | None = Field(None, ge=0, description="relative rise of the bits per byte; 0.01: 1%")
    kl: float | None = Field(None, ge=0, description="KL to the base on the task's own answers, nats per token")

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set."""
        return {name: limit for name, limit in self.to_dict().items() if limit is not None}


class Guard(Spec):
    """Looks during training: KL to base, bits per byte, format, abilities, target. It has questions of its own."""

    every: int | None = Field(None, ge=1, description="steps between looks; unset: about ten in a stage")
    budget: Budget = Field(Budget(), description="forget, bits, kl; none: it only looks")
    alignment: bool = Field(
        False, description="cosine of the gradients of true and permuted targets: high while the form is learned"
    )
    share: float = Field(0.1, gt=0, lt=1, description="of the suite, kept for the guard; the proof asks the others")
    items: int = Field(100, ge=1, le=100_000, description="most questions of each kind, and rows of dev")

    def look_every(self, total: int) -> int:
        """Steps between looks in a stage of `total` steps."""
        return self.every or max(1, round(total / 10))


@dataclass
class Guarding:
    """A guard with what it looks with.

    Attributes:
        guard: its settings.
        evaluations: what is measured, of dev rows and of the guard's part of the suite.
        context: holds these, and opens the base.
    """

    guard: Guard
    evaluations: Sequence[Evaluation]
    context: Context

    def look(self, loaded: Loaded, stack: tuple[AdapterRef, ...]) -> dict[str, float]:
        """Measures a model in training; nothing is cached, and the model is left in evaluation mode.

        Returns:
            `guard_target`, `guard_general` (mean accuracy), `guard_leak`, `guard_bits_per_byte` and
            `guard_kl_to_base` as far as they can be measured; `guard_forgotten`, the greater of the accuracy lost and
            the leak gained; and `guard_bits_rise`, relative to the base.
        """
        base, now = self.scores(loaded, stack)
        return against(means(base), means(now))

    def scores(self, loaded: Loaded, stack: tuple[AdapterRef, ...]) -> tuple[list[Score], list[Score]]:
        """(the base's scores, the model's); the model is left in evaluation mode."""
        assert self.context.base is not None, "a guard compares with a base"
        subject = Subject(loaded.model, loaded.tokenizer, stack)
        checkpoint = Checkpoint(TRAINING)
        opened = self.context.subject
        context = replace(
            self.context, subject=lambda asked: subject if asked is checkpoint else opened(asked), cache=None
        )
        loaded.model.eval()
        return self._measured(self.context.base, self.context), self._measured(checkpoint, context)

    def compared(self, checkpoint: Checkpoint) -> tuple[list[Score], list[Score]]:
        """(the base's scores, those of a checkpoint on the disk)."""
        assert self.context.base is not None, "a guard compares with a base"
        return self._measured(self.context.base, self.context), self._measured(checkpoint, self.context)

    def spent(self, measured: dict[str, float]) -> dict[str, Any] | None:
        """Which limit a look is beyond: `what`, `value`, `limit`; None inside the budget."""
        places = {"forget": "guard_forgotten", "bits": "guard_bits_rise", "kl": "guard_kl_to_base"}
        for name, limit in self.guard.budget.limits.items():
            value = measured.get(places[name])
            if value is not None and not value <= limit:
                return {"what": name, "value": value, "limit": limit}
        return None

    def worth(self, measured: dict[str, float], step: int) -> float:
        """What the best look is chosen by: the target on dev; without one, later is better."""
        value = measured.get("guard_target")
        lower = any(getattr(chosen, "metric", "") == "bits_per_byte" for chosen in self.evaluations)
        return float(step) if value is None else -value if lower else value

    def _measured(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        return [score for chosen in self.evaluations for score in measure_once(chosen, checkpoint, context)]


def means(scores: Sequence[Score]) -> dict[str, float]:
    """The mean of each kind of score; of the drift, the KL on the task's own answers."""
    named = {"target": "target", "general": "accuracy", "leak": "leak", "bits_per_byte": "corpus"}
    found = {key: [score.value for score in scores if score.kind == kind] for key, kind in named.items()}
    found["kl_to_base"] = [s.value for s in scores if s.metric == "kl_to_base" and s.task == "task_prompts"]
    return {key: sum(values) / len(values) for key, values in found.items() if values}


def against(base: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """The means of a look with what was lost since the base."""
    lost = [base["general"] - now["general"]] if "general" in now else []
    lost += [now["leak"] - base["leak"]] if "leak" in now else []
    found = {f"guard_{key}": value for key, value in now.items()}
    if lost:
        found["guard_forgotten"] = max(lost)
    if "bits_per_byte" in now:
        found["guard_bits_rise"] = now["bits_per_byte"] / base["bits_per_byte"] - 1
    return found
