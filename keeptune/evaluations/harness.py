"""Tasks of lm-evaluation-harness, local YAML ones included, with a record per item for the paired test."""

from __future__ import annotations

from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import MissingDependency
from keeptune.core.score import Score
from keeptune.evaluations import Context, Evaluation


class Harness(Evaluation):
    """The suite's harness tasks, measured as the model is deployed off its task.

    The harness makes the prompts, the tokens and the scores; the model runs here, and its items are compared in pairs,
    where the harness itself compares two models as if they had answered different questions.
    """

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One accuracy per task of the suite.

        Raises:
            MissingDependency: lm-eval is not installed (E-ENV-MISSING).
            RecipeError: a task cannot be asked (E-SUITE-HARNESS).
        """
        if context.suite is None or not context.suite.harness:
            return []
        score, subject = _library().harness_score, context.subject(checkpoint)
        with subject.off_task():
            return [score(subject, task, context) for task in context.suite.harness]

    def reads(self, context: Context) -> Any:
        """The tasks, and the harness's version."""
        assert context.suite is not None, "harness tasks stand in a suite"
        return [_library().VERSION, [vars(task) for task in context.suite.harness], context.batch_tokens]


def _library() -> Any:
    try:
        from keeptune.evaluations import _harness_library
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise MissingDependency("lm-eval", extra="eval", needed_for="A suite with harness tasks") from None
    return _harness_library
