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
    the task's last questions, which are not asked. What is longer than the context with them is asked of no model.
    """

    questions: int = Field(100, gt=0, le=10_000, description="most questions per task, the first ones")
    shots: int = Field(0, ge=0, le=16, description="answered questions before each")
    max_new_tokens: int = Field(12, gt=0, le=256, description="longest answer")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per chat task of the suite, with the ids that retention gives its items."""
        assert context.suite is not None, "spoken answers need a suite"
        subject = context.subject(checkpoint)
        with subject.off_task():
            scores = [self._of(subject, task, context) for task in context.suite.tasks if task.chat]
        return [score for score in scores if score is not None]

    def reads(self, context: Context) -> Any:
        """The suite, and what of it does not fit."""
        assert context.suite is not None, "spoken answers need a suite"
        lost = [[name, lost] for name, lost, _ in self.beyond(context)]
        return [context.suite.digest(), *lost] if lost else context.suite.digest()

    def beyond(self, context: Context) -> list[tuple[str, int, int]]:
        """As `Evaluation.beyond`, of each task."""
        assert context.suite is not None, "spoken answers need a suite"
        found = []
        for task in context.suite.tasks if self.shots else ():
            if task.chat:
                whole = len(self.split(task)[0])
                found.append((f"{task.name}, said after {self.shots}", whole - len(self._asked(task, context)), whole))
        return [one for one in found if one[1]]

    def _asked(self, task: ChoiceTask, context: Context) -> list[tuple[Choice, list[Message]]]:
        """The questions that fit, each with the conversation that ends in it."""
        asked, shown = self.split(task)
        before = [turn for item in shown for turn in answered(item)]
        found = [(item, [*before, Message("user", item.prompt)]) for item in asked]
        return [(item, turns) for item, turns in found if context.fits(turns)] if shown else found

    def _of(self, subject: Any, task: ChoiceTask, context: Context) -> Score | None:
        """None where no question fits."""
        asked = self._asked(task, context)
        if not asked and self.split(task)[0]:
            return None
        what = f"{task.name}, said, {self.shots} shown"
        given = free_answers(subject, [turns for _, turns in asked], self.max_new_tokens, context, what)
        items = [
            Item(
                id=item.id, task=task.name, cluster=item.cluster, prompt=item.prompt, gold=item.options[item.gold],
                score=float(begins_with(said, item.options) == item.options[item.gold]),
                prediction=said, seed=context.seed,
            )
            for (item, _), said in zip(asked, given, strict=True)
        ]  # fmt: skip
        return summarise(task.name, "diagnosis", f"said_{self.shots}_shot", items, chance=0.0)

    def split(self, task: ChoiceTask) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
        """(asked, shown) questions."""
        shown = task.items[len(task.items) - self.shots :]
        return task.items[: min(self.questions, len(task.items) - self.shots)], shown


def answered(item: Choice) -> list[Message]:
    """A question and its right answer as two turns."""
    return [Message("user", item.prompt), Message("assistant", item.options[item.gold])]
