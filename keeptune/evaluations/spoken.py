"""The suite's chat questions answered freely: what a model says, beside what it knows by likelihood."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import Choice, ChoiceTask
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import begins_with


class Spoken(Evaluation):
    """Right when the greedy answer opens with the words of the right option, and of no longer other one.

    Asked off-task. With `shots` the question comes after so many answered ones of its task, as earlier turns; they are
    the task's last questions, which are not asked.
    """

    questions: int = Field(100, gt=0, le=10_000, description="most questions per task, the first ones")
    shots: int = Field(0, ge=0, le=16, description="answered questions before each")
    max_new_tokens: int = Field(12, gt=0, le=256, description="longest answer")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per chat task of the suite, with the ids that retention gives its items."""
        assert context.suite is not None, "spoken answers need a suite"
        subject = context.subject(checkpoint)
        with subject.off_task():
            return [self._of(subject, task, context) for task in context.suite.tasks if task.chat]

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "spoken answers need a suite"
        return context.suite.digest()

    def _of(self, subject: Any, task: ChoiceTask, context: Context) -> Score:
        asked, shown = self.split(task)
        before = [turn for item in shown for turn in answered(item)]
        conversations = [[*before, Message("user", item.prompt)] for item in asked]
        what = f"{task.name}, said, {self.shots} shown"
        given = free_answers(subject, conversations, self.max_new_tokens, context, what)
        items = [
            Item(
                id=item.id, task=task.name, cluster=item.cluster, prompt=item.prompt, gold=item.options[item.gold],
                score=float(begins_with(said, item.options) == item.options[item.gold]),
                prediction=said, seed=context.seed,
            )
            for item, said in zip(asked, given, strict=True)
        ]  # fmt: skip
        return summarise(task.name, "diagnosis", f"said_{self.shots}_shot", items, chance=0.0)

    def split(self, task: ChoiceTask) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
        """(asked, shown) questions."""
        shown = task.items[len(task.items) - self.shots :]
        return task.items[: min(self.questions, len(task.items) - self.shots)], shown


def answered(item: Choice) -> list[Message]:
    """A question and its right answer as two turns."""
    return [Message("user", item.prompt), Message("assistant", item.options[item.gold])]
