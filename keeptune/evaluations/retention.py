"""General ability: multiple choice by likelihood, open questions by generation, bits per byte on named corpora."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import ChoiceTask, Corpus, GenerationTask
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._likelihood import (
    Answers,
    after_prompt,
    best_option,
    document_bits,
    log_likelihoods,
    option_log_likelihoods,
)
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import METRICS

T = TypeVar("T")


class Retention(Evaluation):
    """Everything of the context's suite but its instructions, measured as the model is deployed off its task."""

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per task, generation task and corpus of the suite."""
        assert context.suite is not None, "retention needs a suite"
        subject, suite = context.subject(checkpoint), context.suite
        with subject.off_task():
            return [
                *(choice_accuracy(subject, task, context) for task in suite.tasks),
                *(generation_score(subject, task, context) for task in suite.generations),
                *(bits_per_byte(subject, corpus, context) for corpus in suite.corpora),
            ]

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "retention needs a suite"
        return [context.suite.digest(), context.batch_tokens]


def choice_accuracy(subject: Subject, task: ChoiceTask, context: Context) -> Score:
    """Share of questions whose right option has the greatest log-likelihood, normalised as the task says.

    A tie is a wrong answer: a model that finds everything equally likely has answered nothing.
    """
    values_NO = _option_values(subject, task, context)
    priors_NO = _prior_values(subject, task, context) if task.normalise == "prior" else values_NO
    items = []
    for item, values, priors in zip(task.items, values_NO, priors_NO, strict=True):
        ranked = values
        if task.normalise == "prior":
            ranked = [value - prior for value, prior in zip(values, priors, strict=True)]
        elif task.normalise == "bytes":
            ranked = [value / len(option.encode()) for value, option in zip(values, item.options, strict=True)]
        best = best_option(ranked)
        items.append(
            Item(
                id=item.id,
                task=task.name,
                score=float(best == item.gold),
                cluster=item.cluster,
                prompt=item.prompt,
                gold=item.options[item.gold],
                prediction="" if best is None else item.options[best],
                gold_logprob=values[item.gold],
                seed=context.seed,
            )
        )
    return summarise(task.name, "accuracy", "accuracy", items, chance=task.chance)


def _option_values(subject: Subject, task: ChoiceTask, context: Context) -> list[list[float]]:
    """Log p of every option of every question."""
    if task.chat:
        answers = Answers(subject.tokenizer, subject.kind)
        groups = [answers.rows([Message("user", item.prompt)], item.options) for item in task.items]
        return option_log_likelihoods(subject, groups, context, task.name)
    rows = after_prompt(
        subject.tokenizer,
        [item.prompt for item in task.items for _ in item.options],
        [option for item in task.items for option in item.options],
        subject.kind,
    )
    if any(item.prompt for item in task.items):
        return option_log_likelihoods(subject, by_question(rows, task), context, task.name)
    return by_question(log_likelihoods(subject, rows, context, task.name), task)


def _prior_values(subject: Subject, task: ChoiceTask, context: Context) -> list[list[float]]:
    """Log p of every option as a text of its own; an option that several questions have is scored once."""
    texts = list(dict.fromkeys(option for item in task.items for option in item.options))
    rows = after_prompt(subject.tokenizer, [""] * len(texts), texts, subject.kind)
    found = dict(zip(texts, log_likelihoods(subject, rows, context, f"{task.name}, options alone"), strict=True))
    return [[found[option] for option in item.options] for item in task.items]


def by_question(flat: Sequence[T], task: ChoiceTask) -> list[list[T]]:
    """One value per option of the whole task, cut into one list per question."""
    values = iter(flat)
    return [list(islice(values, len(item.options))) for item in task.items]


def bits_per_byte(subject: Subject, corpus: Corpus, context: Context) -> Score:
    """-sum log2 p(token) over the bytes of the text, per document: comparable between tokenizers."""
    bits = document_bits(subject, [document.text for document in corpus.documents], context, corpus.name)
    items = [
        Item(
            id=document.id,
            task=corpus.name,
            score=value,
            cluster=document.cluster,
            prompt=document.text[:200],
            size=float(len(document.text.encode())),
            seed=context.seed,
        )
        for document, value in zip(corpus.documents, bits, strict=True)
    ]
    return summarise(corpus.name, "corpus", "bits_per_byte", items, higher_is_better=False)


def generation_score(subject: Subject, task: GenerationTask, context: Context) -> Score:
    """Greedy answers against their references."""
    asked = [[Message("user", item.prompt)] for item in task.items]
    given = free_answers(subject, asked, task.max_new_tokens, context, task.name)
    items = [
        Item(
            id=item.id,
            task=task.name,
            score=METRICS[task.metric](answer, item.answer),
            cluster=item.cluster,
            prompt=item.prompt,
            gold=item.answer,
            prediction=answer,
            seed=context.seed,
        )
        for item, answer in zip(task.items, given, strict=True)
    ]
    return summarise(task.name, "accuracy", task.metric, items, chance=0.0)
