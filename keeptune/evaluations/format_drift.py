"""Format leak: the share of unrelated requests that are answered in the training format."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import begins_with, words

MOST_LABELS = 500
LONGEST_LABEL = 8


class FormatDrift(Evaluation):
    """Asks the suite's unrelated requests, off-task, and looks whether the free answers carry the training format.

    A label set: the answer opens with the words of a label. A pattern: it matches the beginning of the answer. A task
    with free answers has no format to leak, and no score is made.
    """

    data: str = Field("task", description="the source whose answers are the training format")
    labels: tuple[str, ...] | None = Field(None, description="the labels; those of the data when absent")
    pattern: str | None = Field(None, description="regular expression of the training format, instead of labels")
    prompted: bool = Field(False, description="with the task's own adapters on, which are off as deployed")
    max_new_tokens: int = Field(12, gt=0, le=256, description="tokens of each answer that are looked at")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"the pattern is not a regular expression: {error}") from None
        return pattern

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score, `format_leak`; none when the training answers have no rigid format."""
        labels = self.format_labels(context)
        requests = context.suite.instructions if context.suite else ()
        if not requests or (self.pattern is None and not labels):
            return []
        subject = context.subject(checkpoint)
        asked = [[Message("user", request)] for request in requests]
        with subject.on_task(self.data) if self.prompted else subject.off_task():
            given = free_answers(subject, asked, self.max_new_tokens, context, "format_leak")
        items = [
            Item(
                id=f"request-{index}",
                task="format_leak",
                score=float(self.leaks(answer, labels)),
                prompt=request,
                prediction=answer,
                seed=context.seed,
            )
            for index, (request, answer) in enumerate(zip(requests, given, strict=True))
        ]
        return [summarise("format_leak", "leak", "leak", items, higher_is_better=False)]

    def reads(self, context: Context) -> Any:
        """The requests and the labels."""
        return [list(context.suite.instructions) if context.suite else [], self.format_labels(context)]

    def leaks(self, answer: str, labels: list[str]) -> bool:
        """Whether one answer carries the format."""
        if self.pattern is not None:
            return re.match(self.pattern, answer) is not None
        return begins_with(answer, labels) is not None

    def format_labels(self, context: Context) -> list[str]:
        """The label set; empty when the answers are free text: too many different ones, or long ones."""
        if self.labels is not None:
            return list(self.labels)
        found = context.answers(self.data)
        rows = sum(len(rows) for name, rows in context.data.items() if name.split("/")[0] == self.data)
        rigid = len(found) <= min(MOST_LABELS, rows / 3) and all(len(words(text)) <= LONGEST_LABEL for text in found)
        return found if rigid else []
