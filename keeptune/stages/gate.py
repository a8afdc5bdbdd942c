"""Looks whether a soft prompt has learned the task's form, and refuses to go on when it has not; see ProMoT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.score import Score
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.task_format import TaskFormat
from keeptune.stages import Stage, StageWork

BOUND = 1.645
"""Standard errors below the mean: a one-sided 95% bound."""


class Gate(Stage):
    """Asks of the first stage what it is for: the right answers became likelier, and the answers have the form.

    Both on dev rows, against the base, paired by row: a one-sided 95% bound of the gain in log-likelihood per token of
    the right answer above 0, and a share of answers in the training format of at least `valid`. Accuracy is not
    asked: a soft prompt that picks the wrong label every second time can still carry the format.
    """

    action: Literal["refuse", "report"] = Field("refuse", description="what happens when it is not learned")
    data: str = Field("task", description="name of the data source")
    rows: int = Field(200, ge=10, le=10_000, description="most dev rows that are looked at")
    valid: float = Field(0.5, ge=0, le=1, description="least share of answers that have the training format")

    def sources(self) -> list[str]:
        """The data source that it looks at."""
        return [self.data]

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Passes the checkpoint on; the numbers stand in the run's events under `gate`.

        Raises:
            RecipeError: there are no dev rows to look at (E-GATE-DEV).
            PlanError: the form is not learned, and `action` is refuse (E-GATE-REFUSED).
        """
        context = work.context
        if context is None or f"{self.data}/dev" not in context.data:
            raise RecipeError(
                f"the gate looks at dev rows of '{self.data}', and there are none.",
                code="E-GATE-DEV",
                where={"key": f"stages[{work.index}]"},
                fix="Give the source a dev split (split: {dev: 0.1}), or take the gate out.",
            )
        assert context.base is not None, "a run has a base"
        looked = TaskFormat(data=self.data, rows=self.rows)
        found = judge(
            measure_once(looked, context.base, context), measure_once(looked, checkpoint, context), self.valid
        )
        work.run.event("gate", stage=self.label, action=self.action, **found)
        said = _sentence(found)
        if found["passed"] or self.action == "report":
            work.progress.say(f"gate: {said}")
            return checkpoint
        raise PlanError(
            f"the first stage has not learned the form of the task: {said}.",
            code="E-GATE-REFUSED",
            where={"key": f"stages[{work.index}]"},
            why="The weights would learn the form instead, and give it to every answer.",
            fix="Train the prompt longer or at another rate, start it from the labels, or set action: report.",
        )


def judge(before: Sequence[Score], after: Sequence[Score], least_valid: float) -> dict[str, Any]:
    """The numbers of a gate and whether they pass.

    Args:
        before: of the base, as `TaskFormat` measures.
        after: of the checkpoint, on the same rows.
        least_valid: share of answers that must have the format.
    """
    pairs = {score.metric: score for score in before}, {score.metric: score for score in after}
    base, now = (side["gold_logprob"] for side in pairs)
    gains = [b.score / b.size - a.score / a.size for a, b in zip(base.items, now.items, strict=True)]
    mean = sum(gains) / len(gains)
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(1, len(gains) - 1) / len(gains))
    found: dict[str, Any] = {
        "n": len(gains),
        "gold_logprob_base": base.value,
        "gold_logprob": now.value,
        "gain": mean,
        "gain_low": mean - BOUND * spread,
    }
    passed = bool(found["gain_low"] > 0)
    if "valid_format" in pairs[1]:
        found["valid_format_base"], found["valid_format"] = (side["valid_format"].value for side in pairs)
        passed = passed and found["valid_format"] >= least_valid
    return {**found, "passed": passed}


def _sentence(found: dict[str, Any]) -> str:
    parts = [
        f"right answers {found['gain']:+.2f} nats a token against the base (at least {found['gain_low']:+.2f}, "
        f"n {found['n']})"
    ]
    if "valid_format" in found:
        parts.append(
            f"{found['valid_format']:.0%} of the answers have the format, {found['valid_format_base']:.0%} before"
        )
    return ", ".join(parts)
