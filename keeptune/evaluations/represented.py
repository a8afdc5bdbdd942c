"""Represented: do the states between the blocks tell right options from wrong ones, whatever the output says?

    z_o = (h_o - mean of the question's options) / deviation of each dimension,      h_o: the last token of an option
    f(o) = z_o' w,    w: ridge regression of [o is right] - 1 / options on z, over other questions

A linear probe, solved in closed form, so that nothing is drawn. Questions are dealt into five folds by a hash of what
they belong to; each fold is answered by a probe that never saw it, at the layer and the strength that answer one of the
other folds best after learning from the rest. A question is right when its right option alone has the greatest f.
Before and after an adaptation this says whether a loss is one of the output: what the states still hold, and the
answer no longer shows, was not unlearned (probing as in Belinkov et al. 2017, arXiv:1704.03471; here the same questions
are asked of both models and compared in pairs).

Shapes: Q questions, R rows (options of all questions), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import Choice, ChoiceTask
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._labels import batches_by_length, unlearned
from keeptune.evaluations._likelihood import Answers, after_prompt, best_option
from keeptune.evaluations._summary import summarise

Floats = NDArray[np.float64]
FOLDS, FEWEST = 5, 50
STRENGTHS = (0.1, 1.0, 10.0)
"""Of the ridge, as multiples of the mean squared length of a row."""
DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the blocks behind which states are read."""


class Represented(Evaluation):
    """Questions of the suite that a linear probe of the states answers, as the model is deployed off its task."""

    questions: int = Field(200, ge=FEWEST, le=10_000, description="most questions per task")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score for each task with at least fifty questions, with the metric `represented`."""
        assert context.suite is not None, "represented needs a suite"
        subject = context.subject(checkpoint)
        with subject.off_task():
            return [
                _score(subject, task, task.items[: self.questions], context)
                for task in context.suite.tasks
                if len(task.items) >= FEWEST
            ]

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "represented needs a suite"
        return [context.suite.digest(), context.batch_tokens]


def _score(subject: Subject, task: ChoiceTask, asked: Sequence[Choice], context: Context) -> Score:
    rows = _rows(subject, task, asked)
    states = option_states(subject, rows, context, f"{task.name}, states")
    sizes = [len(one.options) for one in asked]
    folds = [fold(one.cluster or one.id) for one in asked]
    said = answered(states, sizes, [one.gold for one in asked], folds)
    items = [
        Item(
            id=one.id, task=task.name, score=float(place == one.gold), cluster=one.cluster, prompt=one.prompt,
            gold=one.options[one.gold], prediction="" if place is None else one.options[place], seed=context.seed,
        )
        for one, place in zip(asked, said, strict=True)
    ]  # fmt: skip
    return summarise(task.name, "diagnosis", "represented", items, chance=task.chance)


def _rows(subject: Subject, task: ChoiceTask, asked: Sequence[Choice]) -> list[tuple[int, ...]]:
    """The tokens of every option behind its question, as its likelihood is measured."""
    if task.chat:
        answers = Answers(subject.tokenizer, subject.kind)
        return [tuple(row.tokens) for one in asked for row in answers.rows([Message("user", one.prompt)], one.options)]
    prompts = [one.prompt for one in asked for _ in one.options]
    found = after_prompt(subject.tokenizer, prompts, [option for one in asked for option in one.options])
    return [tuple(row.tokens) for row in found]


def option_states(subject: Subject, rows: Sequence[tuple[int, ...]], context: Context, what: str) -> list[Floats]:
    """`[R, D]` for each of the depths: the state of each row's last token."""
    import torch

    from keeptune.engine.batch import pack
    from keeptune.engine.generation import evaluating
    from keeptune.engine.packed import packed_states

    encoded = [unlearned(tokens) for tokens in rows]
    found: list[dict[int, Floats]] = [{} for _ in DEPTHS]
    with torch.inference_mode(), evaluating(subject.model):
        for batch in batches_by_length(encoded, context.batch_tokens):
            packed = pack([encoded[index] for index in batch])
            last = torch.tensor(packed.offsets[1:]) - 1
            layers = packed_states(subject.model, packed, layers=True).layers
            for own, depth in zip(found, DEPTHS, strict=True):
                chosen = layers[round(depth * (len(layers) - 1))]
                values = chosen[last.to(chosen.device)].double().cpu().numpy()
                own.update(zip(batch, values, strict=True))
            context.tell(what, len(found[0]), len(rows))
    return [np.stack([own[index] for index in range(len(rows))]) for own in found]


def answered(
    states: Sequence[Floats], sizes: Sequence[int], golds: Sequence[int], folds: Sequence[int]
) -> list[int | None]:
    """The option that the probe chooses for each question; None where two are level or a state is not a number.

    Args:
        states: `[R, D]` of each layer that may be read.
        sizes: options of each question, R in all.
        golds: the right one of each.
        folds: of each question, 0 to 4.
    """
    spans = list(pairwise(accumulate(sizes, initial=0)))
    if not all(np.isfinite(layer).all() for layer in states):
        return [None] * len(sizes)
    kernels = [_kernel(layer, spans) for layer in states]
    wanted = np.concatenate([np.eye(size)[gold] - 1 / size for size, gold in zip(sizes, golds, strict=True)])
    own_R = np.repeat(folds, sizes)
    said: list[int | None] = [None] * len(sizes)
    for test in sorted(set(folds)):
        dev = next(number % FOLDS for number in range(test + 1, test + FOLDS) if number % FOLDS in folds)

        def right(setting: tuple[Floats, float], test: int = test, dev: int = dev) -> int:
            values = _values(*setting, wanted, (own_R != test) & (own_R != dev))
            return sum(
                best_option(values[start:end].tolist()) == gold
                for (start, end), gold, number in zip(spans, golds, folds, strict=True)
                if number == dev
            )

        kernel, strength = max(product(kernels, STRENGTHS), key=right)
        values = _values(kernel, strength, wanted, own_R != test)
        for place, (start, end) in enumerate(spans):
            if folds[place] == test:
                said[place] = best_option(values[start:end].tolist())
    return said


def fold(name: str) -> int:
    """0 to 4, by the name alone."""
    return int(hashlib.sha256(f"fold|{name}".encode()).hexdigest(), 16) % FOLDS


def _kernel(states_RD: Floats, spans: Sequence[tuple[int, int]]) -> Floats:
    """`[R, R]` inner products of rows less their question's mean, in deviations; the mean squared length is 1."""
    centred = np.concatenate([states_RD[start:end] - states_RD[start:end].mean(axis=0) for start, end in spans])
    spread = centred.std(axis=0)
    centred = centred / np.where(spread > 0, spread, 1.0)
    kernel = centred @ centred.T
    return np.asarray(kernel / max(float(np.trace(kernel)) / len(kernel), 1e-12))


def _values(kernel: Floats, strength: float, wanted_R: Floats, known_R: NDArray[np.bool_]) -> Floats:
    """`[R]` f of every row, learned from the known ones."""
    own = kernel[np.ix_(known_R, known_R)]
    solved = np.linalg.solve(own + strength * np.eye(len(own)), wanted_R[known_R])
    return np.asarray(kernel[:, known_R] @ solved)
