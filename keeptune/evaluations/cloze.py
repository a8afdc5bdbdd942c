"""What a masked language model knows: the suite's questions, answered by how well each option fills its place."""

from __future__ import annotations

from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations.retention import choice_accuracy


class Cloze(Evaluation):
    """Multiple choice by pseudo-log-likelihood, as deployed off the task: each token of an option is masked in turn.

    A question takes a pass over its whole text for every token of every option, so an encoder is asked what the sources
    of its recipe ask, such as `taught` and `neighbours`, and not the whole suite.
    """

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per task."""
        assert context.suite is not None, "questions come with a suite"
        subject = context.subject(checkpoint)
        with subject.off_task():
            return [choice_accuracy(subject, task, context) for task in context.suite.tasks]

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "questions come with a suite"
        return context.suite.digest()
