"""The task itself, on its held-out rows: exact match, label accuracy, ROUGE, token F1, bits per byte, preference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.errors import RecipeError
from keeptune.core.example import Example
from keeptune.core.score import Item, Score
from keeptune.data.label_set import LABELLED
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._labels import label_logprobs
from keeptune.evaluations._likelihood import (
    Answers,
    best_option,
    document_bits,
    log_likelihoods,
    option_log_likelihoods,
)
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import METRICS

MOST_LABELS = 500
Metric = Literal[
    "exact_match", "label_accuracy", "rouge_1", "rouge_2", "rouge_l", "token_f1", "bits_per_byte", "cloze_accuracy",
    "preference_accuracy",
]  # fmt: skip


class Target(Evaluation):
    """How well the model does the task that it is adapted to, with all its adapters active."""

    data: str = Field("task", description="name of the data source")
    metric: Metric = Field(
        "exact_match",
        description="label_accuracy ranks the labels by likelihood or by a head, bits_per_byte reads the answer or the "
        "text, cloze_accuracy ranks the labels by how well each fills its place in a masked language model, "
        "preference_accuracy asks whether the better answer of a pair is likelier; the others score a greedy answer",
    )
    split: Literal["dev", "test", "ood"] = Field("test", description="which rows: dev to select, test to prove")
    labels: tuple[str, ...] | None = Field(None, description="the possible answers; those of the data when absent")
    max_new_tokens: int = Field(64, gt=0, le=4096, description="longest generated answer")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score, named after the data source."""
        rows = context.rows(self.data, self.split)
        subject = context.subject(checkpoint)
        if self.metric == "cloze_accuracy" and not subject.fills_masks:
            raise RecipeError(
                "cloze_accuracy asks a masked language model, and this model has no such head.",
                code="E-RECIPE-METRIC",
                fix="Use label_accuracy, which asks a model that writes, or a head.",
            )
        with subject.on_task(self.data):
            if self.metric == "label_accuracy" and (subject.reads_labels or subject.kind in ("encoder", "image")):
                return [self._by_head(subject, rows, self._labels(context), context)]
            if self.metric in LABELLED:
                return [self._by_likelihood(subject, rows, self._labels(context), context)]
            if self.metric == "bits_per_byte":
                return [self._by_bits(subject, rows, context)]
            if self.metric == "preference_accuracy":
                return [self._by_preference(subject, rows, context)]
            return [self._by_generation(subject, rows, context)]

    def reads(self, context: Context) -> Any:
        """Prompts, answers and labels."""
        rows = context.rows(self.data, self.split)
        labels = self._labels(context) if self.metric in LABELLED else []
        worse = [row.rejected for row in rows] if self.metric == "preference_accuracy" else []
        told = [[[row.id, [turn.to_dict() for turn in row.prompt], row.target] for row in rows], list(labels)]
        return [*told, worse] if worse else told

    def _labels(self, context: Context) -> tuple[str, ...]:
        labels = self.labels or tuple(context.answers(self.data))
        if not 2 <= len(labels) <= MOST_LABELS:
            raise RecipeError(
                f"{self.metric} needs 2 to {MOST_LABELS} labels; '{self.data}' has "
                f"{counted(len(labels), 'different answer')}.",
                code="E-RECIPE-METRIC",
                fix="Use exact_match, token_f1 or rouge_l for free answers.",
            )
        return labels

    def _by_likelihood(
        self, subject: Subject, rows: Sequence[Example], labels: Sequence[str], context: Context
    ) -> Score:
        """The label with the greatest log p(label, end of turn | prompt)."""
        answers = Answers(subject.tokenizer, subject.kind)
        asked = [answers.rows(row.prompt, labels) for row in rows]
        golds = [labels.index(row.target) if row.target in labels else None for row in rows]
        values = option_log_likelihoods(subject, asked, context, self.data, golds)
        items = []
        for row, own, place in zip(rows, values, golds, strict=True):
            best = best_option(own)
            said = "" if best is None else labels[best]
            gold = None if place is None else own[place]
            items.append(self._item(row, said, float(said == row.target), context.seed, gold))
        return summarise(self.data, "target", self.metric, items, chance=1 / len(labels))

    def _by_head(self, subject: Subject, rows: Sequence[Example], labels: Sequence[str], context: Context) -> Score:
        """The label with the greatest score; an encoder without a head gives no answer."""
        values: list[dict[str, float]] = [{} for _ in rows]
        if subject.reads_labels:
            values = label_logprobs(subject, [row.prompt for row in rows], context, self.data)
        items = []
        for row, own in zip(rows, values, strict=True):
            said = max(own, key=own.__getitem__) if own else ""
            gold = own.get(row.target)
            items.append(self._item(row, said, float(said == row.target), context.seed, gold))
        return summarise(self.data, "target", self.metric, items, chance=1 / len(labels))

    def _by_bits(self, subject: Subject, rows: Sequence[Example], context: Context) -> Score:
        """Bits per byte of plain texts, or of the answers to prompts."""
        if all(row.text is not None for row in rows):
            bits = document_bits(subject, [row.target for row in rows], context, self.data)
        else:
            answers = Answers(subject.tokenizer, subject.kind)
            scored = [answers.rows(row.prompt, [row.target])[0] for row in rows]
            bits = [-value / math.log(2) for value in log_likelihoods(subject, scored, context, self.data)]
        items = [
            replace(self._item(row, "", value, context.seed), size=float(max(1, len(row.target.encode()))))
            for row, value in zip(rows, bits, strict=True)
        ]
        return summarise(self.data, "target", self.metric, items, higher_is_better=False)

    def _by_preference(self, subject: Subject, rows: Sequence[Example], context: Context) -> Score:
        """Whether log p(answer, end of turn | prompt) of the better answer is greater than of the worse one."""
        if any(row.rejected is None for row in rows):
            raise RecipeError(
                f"preference_accuracy compares two answers to each row, and '{self.data}' has rows with one.",
                code="E-RECIPE-METRIC",
                fix="Name rows of the format `preference`, or another metric.",
            )
        answers = Answers(subject.tokenizer, subject.kind)
        asked = [answers.rows(row.prompt, [row.target, str(row.rejected)]) for row in rows]
        values = log_likelihoods(subject, [one for pair in asked for one in pair], context, self.data)
        items = [
            self._item(
                row, row.target if better > worse else str(row.rejected), float(better > worse), context.seed, better
            )
            for row, better, worse in zip(rows, values[0::2], values[1::2], strict=True)
        ]
        return summarise(self.data, "target", self.metric, items, chance=0.5)

    def _by_generation(self, subject: Subject, rows: Sequence[Example], context: Context) -> Score:
        given = free_answers(subject, [row.prompt for row in rows], self.max_new_tokens, context, self.data)
        metric = METRICS[self.metric]
        items = [
            self._item(row, said, metric(said, row.target), context.seed) for row, said in zip(rows, given, strict=True)
        ]
        return summarise(self.data, "target", self.metric, items)

    def _item(self, row: Example, said: str, score: float, seed: int, gold_logprob: float | None = None) -> Item:
        prompt = "\n".join(turn.content for turn in row.prompt)
        return Item(
            id=row.id, task=self.data, score=score, prompt=prompt, gold=row.target, prediction=said,
            gold_logprob=gold_logprob, seed=seed,
        )  # fmt: skip
