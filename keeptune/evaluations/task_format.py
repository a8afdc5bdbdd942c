"""Whether the task's form is learned: log-likelihood of the right answers, and the share of answers in their format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Item, Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._likelihood import Answers, log_likelihoods
from keeptune.evaluations._summary import summarise
from keeptune.evaluations.format_drift import FormatDrift


class TaskFormat(Evaluation):
    """What a soft prompt is to learn before the weights learn the task, with all adapters active.

    Both can be high where accuracy is at chance: any label, said in place of a sentence, is the right form.
    """

    data: str = Field("task", description="name of the data source")
    split: Literal["dev", "test"] = Field("dev", description="which rows; dev, since it decides something")
    rows: int = Field(200, gt=0, le=10_000, description="most rows that are looked at")
    pattern: str | None = Field(None, description="regular expression of the format; else the label set")
    max_new_tokens: int = Field(12, gt=0, le=256, description="tokens of each answer that are looked at")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """`gold_logprob`, nats per token of the right answer; `valid_format`, unless the answers are free text."""
        subject, rows = context.subject(checkpoint), context.rows(self.data, self.split)[: self.rows]
        answers, form = Answers(subject.tokenizer, subject.kind), self._form()
        labels = form.format_labels(context)
        scored = [answers.rows(row.prompt, [row.target])[0] for row in rows]
        with subject.on_task(self.data):
            values = log_likelihoods(subject, scored, context, "gold_logprob")
            said = [""] * len(rows)
            if labels or self.pattern:
                said = free_answers(subject, [row.prompt for row in rows], self.max_new_tokens, context, "valid_format")
        items = [
            Item(row.id, "gold_logprob", value, gold=row.target, size=float(len(one.tokens) - one.start))
            for row, value, one in zip(rows, values, scored, strict=True)
        ]
        scores = [summarise("gold_logprob", "diagnosis", "gold_logprob", items)]
        if labels or self.pattern:
            valid = [
                replace(item, task="valid_format", score=float(form.leaks(text, labels)), prediction=text, size=1.0)
                for item, text in zip(items, said, strict=True)
            ]
            scores.append(summarise("valid_format", "diagnosis", "valid_format", valid))
        return scores

    def reads(self, context: Context) -> Any:
        """Prompts, answers and labels."""
        rows = context.rows(self.data, self.split)[: self.rows]
        prompts = [[row.id, [turn.to_dict() for turn in row.prompt], row.target] for row in rows]
        return [prompts, self._form().format_labels(context)]

    def _form(self) -> FormatDrift:
        return FormatDrift(data=self.data, pattern=self.pattern, max_new_tokens=self.max_new_tokens)
