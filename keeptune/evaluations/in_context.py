"""In-context learning: a classification read off examples in the prompt, under natural, flipped and abstract labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import stable_id
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._likelihood import Answers, best_option, option_log_likelihoods
from keeptune.evaluations._summary import summarise

Naming = Literal["natural", "flipped", "abstract"]
ABSTRACT = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class InContext(Evaluation):
    """Right when the likeliest label, as a whole turn, is the one that the examples teach; asked off-task.

    Natural labels can be known without an example. Flipped ones (each class carries the next one's name) and abstract
    ones (A, B, C) can only be learned in the prompt, and a model that follows what it knows answers flipped ones below
    chance (Wei et al. 2023, arXiv:2303.03846). With no shots they show where learning starts from. A question that is
    longer than the context with its examples is asked of no model.
    """

    data: str | None = Field(None, description="labelled rows: train is shown, test asked; embedded ones when absent")
    shots: int = Field(4, ge=0, le=16, description="examples of each class, as earlier turns")
    labels: Naming = Field("natural", description="natural; flipped: the next class's name; abstract: A, B, C")
    classes: int = Field(4, ge=2, le=26, description="the commonest classes")
    questions: int = Field(100, gt=0, le=10_000, description="most questions")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score with the metric `natural_4_shot` or alike; none where no row can be asked.

        Raises:
            RecipeError: fewer than two classes, or too few rows to show (E-RECIPE-METRIC).
        """
        subject = context.subject(checkpoint)
        if subject.kind == "encoder":
            return []
        names = self._names(self._rows(context)[0])
        asked = self._asked(names, context)
        if not asked and self._rows(context)[1]:
            return []
        with subject.off_task():
            return [self._score(subject, asked, names, context)]

    def reads(self, context: Context) -> Any:
        """The rows, and how many of them do not fit."""
        rows = [[[row.id, _text(row), row.target] for row in part] for part in self._rows(context)]
        return [*rows, *(lost for _, lost, _ in self.beyond(context))]

    def beyond(self, context: Context) -> list[tuple[str, int, int]]:
        """As `Evaluation.beyond`."""
        shown, rows = self._rows(context)
        lost = len(rows) - len(self._asked(self._names(shown), context))
        return [(f"in context, {self._metric}", lost, len(rows))] if lost else []

    def _asked(self, names: Mapping[str, str], context: Context) -> list[tuple[Example, list[Message]]]:
        """The rows that fit, each with the conversation that ends in its question."""
        shown, rows = self._rows(context)
        found = [(row, [*self._before(shown, names, row, context.seed), Message("user", _text(row))]) for row in rows]
        return [(row, turns) for row, turns in found if context.fits(turns, list(names.values()))]

    @property
    def _metric(self) -> str:
        return f"{self.labels}_{self.shots}_shot"

    def _rows(self, context: Context) -> tuple[list[Example], list[Example]]:
        """(to show, to ask), of the commonest classes alone."""
        shown, asked = embedded_kinds() if self.data is None else _parts(context, self.data)
        counts = Counter(row.target for row in shown)
        chosen = {name for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: self.classes]}
        if len(chosen) < 2 or min(counts[name] for name in chosen) < self.shots:
            raise RecipeError(
                f"'{self.data or 'embedded'}' has too few labelled rows to show {self.shots} of each of two classes.",
                code="E-RECIPE-METRIC", fix="Name a source with more rows, or lower `shots`.",
            )  # fmt: skip
        kept = [row for row in asked if row.target in chosen]
        return [row for row in shown if row.target in chosen], kept[: self.questions]

    def _names(self, shown: Sequence[Example]) -> dict[str, str]:
        """What each class is called in the prompt."""
        own = sorted({row.target for row in shown})
        if self.labels == "flipped":
            return dict(zip(own, [*own[1:], own[0]], strict=True))
        return dict(zip(own, ABSTRACT, strict=False)) if self.labels == "abstract" else {name: name for name in own}

    def _score(
        self,
        subject: Subject,
        asked: Sequence[tuple[Example, list[Message]]],
        names: Mapping[str, str],
        context: Context,
    ) -> Score:
        answers, options = Answers(subject.tokenizer, subject.kind), list(names.values())
        groups = [answers.rows(turns, options) for _, turns in asked]
        values = option_log_likelihoods(subject, groups, context, f"in context, {self._metric}")
        items = []
        for (row, _), own in zip(asked, values, strict=True):
            best, gold = best_option(own), names[row.target]
            said = "" if best is None else options[best]
            items.append(Item(
                id=row.id, task="in_context", score=float(said == gold), prompt=_text(row), gold=gold,
                prediction=said, gold_logprob=own[options.index(gold)], seed=context.seed,
            ))  # fmt: skip
        return summarise("in_context", "diagnosis", self._metric, items, chance=1 / len(options))

    def _before(self, shown: Sequence[Example], names: Mapping[str, str], row: Example, seed: int) -> list[Message]:
        """Examples of every class in an order of this question's own."""
        random, by_class = Random(f"{seed}/{row.id}"), defaultdict(list)
        for one in shown:
            if _text(one) != _text(row):
                by_class[one.target].append(one)
        drawn = [one for name in sorted(by_class) for one in random.sample(by_class[name], self.shots)]
        random.shuffle(drawn)
        return [
            turn for one in drawn for turn in (Message("user", _text(one)), Message("assistant", names[one.target]))
        ]


def embedded_kinds() -> tuple[list[Example], list[Example]]:
    """(to show, to ask): words of four kinds, with the kind as the label."""
    from keeptune.pocket.words import CATEGORIES

    parts: tuple[list[Example], list[Example]] = ([], [])
    for kind in ("animal", "clothing", "food", "tool"):
        for place, word in enumerate(CATEGORIES[kind]):
            turns = (Message("user", f"word {word}"), Message("assistant", kind))
            parts[place % 2].append(Example(stable_id("in_context", word, kind), turns))
    return parts


def _parts(context: Context, source: str) -> tuple[list[Example], list[Example]]:
    whole = context.rows(source, "train")
    asked = context.rows(source, "test")
    if asked == whole:
        return whole[::2], whole[1::2]
    return whole, asked


def _text(row: Example) -> str:
    return "\n".join(turn.content for turn in row.prompt)
