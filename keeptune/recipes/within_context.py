"""What is longer than a model's context: left out of both sides of a proof, by name, so that pairs stay pairs.

Corpora are read in windows, and lm-evaluation-harness cuts its own prompts, so both stay whole. So does whatever an
endpoint is asked, which tokenises by itself, and an encoder-decoder, whose positions are relative and have no end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encode import encoder_of
from keeptune.data.label_set import LABELLED
from keeptune.data.suite import Choice, ChoiceTask, Suite
from keeptune.evaluations import Context, Reach, Subject
from keeptune.evaluations._endpoint import Endpoint
from keeptune.evaluations._likelihood import Answers, after_prompt
from keeptune.evaluations.target import Target
from keeptune.recipes.material import longest_row

T = TypeVar("T")
SPLITS = ("test", "ood", "dev")


def within_context(
    context: Context,
    subjects: Sequence[Subject],
    target: Target | None,
    names: Mapping[str, str] | None = None,
    *,
    taken: int = 0,
) -> Context:
    """The context with what every subject can read whole; its `left_out` counts the rest.

    Args:
        context: of a proof.
        subjects: that will be measured.
        target: whose rows are looked at.
        names: of rows, such as `task/test`, where they are to be told by another name.
        taken: positions that adapters which are still to be trained will take beside a text.

    Raises:
        DataError: no row of a split, or nothing of the suite, is left (E-DATA-LONG).
    """
    readers = [
        _Reader(one, taken) for one in subjects if not isinstance(one, Endpoint) and one.kind in ("decoder", "encoder")
    ]
    if not readers or (target is None and context.suite is None):
        return context
    fitting = _Fitting(readers)
    data = dict(context.data)
    if target is not None:
        fits = _row_fits(target, context)
        for key, rows in context.data.items():
            if key in [f"{target.data}/{split}" for split in SPLITS]:
                shown = (names or {}).get(key, key.replace("/", ", "))
                data[key] = fitting.kept(shown, rows, fits)
                if rows and not data[key]:
                    raise _nothing_left(f"of the {counted(len(rows), 'row')} of '{shown}'", fitting.longest)
    suite = context.suite and fitting.suite(context.suite)
    return replace(
        context, data=data, suite=suite, left_out=fitting.left_out, reach=Reach(fitting.longest, fitting.conversation)
    )


def left_out_lines(certificate: Mapping[str, Any]) -> list[str]:
    """One line for every part of a proof that lost items, for a terminal."""
    return [
        f"left out     {one['items']:,} of {counted(one['of'], 'item')} of '{one['name']}': longer than the context of "
        f"{one['context']:,} tokens"
        for one in certificate.get("left_out") or ()
    ]


class _Reader:
    """What one model can read: rows of `longest` tokens, less the learned positions that its adapters take."""

    def __init__(self, subject: Subject, taken: int) -> None:
        from keeptune.engine.positions import positions_before

        self.tokenizer, self.kind = subject.tokenizer, subject.kind
        taken += positions_before(subject.model, [one.name for one in subject.adapters])
        self.longest = longest_row(subject.model.config.to_dict()) - taken
        self.encoder = encoder_of(self.tokenizer, None, self.kind)
        self.answers = Answers(self.tokenizer, self.kind)
        self.frame = len(self.answers.rows([Message("user", "a")], ["a"])[0].tokens)

    def answered(self, turns: Sequence[Message], answers: Sequence[str]) -> bool:
        """Whether a conversation fits with each of some answers."""
        if self._short([*(turn.content for turn in turns), _longest(answers)], len(turns)):
            return True
        return all(len(row.tokens) <= self.longest for row in self.answers.rows(turns, answers))

    def asked(self, turns: Sequence[Message]) -> bool:
        """Whether a conversation fits, with a first token of the answer where one is written."""
        if self._short([turn.content for turn in turns], len(turns)):
            return True
        return len(self.encoder.request(turns).tokens) + (self.kind == "decoder") <= self.longest

    def continued(self, prompt: str, options: Sequence[str]) -> bool:
        """Whether a text fits with each of its continuations."""
        if self._short([prompt, _longest(options)], 1):
            return True
        rows = after_prompt(self.tokenizer, [prompt] * len(options), options, self.kind)
        return all(len(row.tokens) <= self.longest for row in rows)

    def _short(self, texts: Sequence[str], turns: int) -> bool:
        """Whether texts fit whatever their tokens are: each has at least one byte of its own."""
        return sum(len(text.encode()) for text in texts) + self.frame * max(1, turns) <= self.longest


Fits = Callable[[_Reader, T], bool]


class _Fitting:
    """Leaves out what one of the readers cannot read, and counts it."""

    def __init__(self, readers: Sequence[_Reader]) -> None:
        self.readers, self.longest = readers, min(reader.longest for reader in readers)
        self.left_out: list[dict[str, Any]] = []

    def kept(self, name: str, items: Sequence[T], fits: Fits[T]) -> list[T]:
        """The items that every reader can read."""
        found = [item for item in items if all(fits(reader, item) for reader in self.readers)]
        if len(found) < len(items):
            lost = {"name": name, "items": len(items) - len(found), "of": len(items), "context": self.longest}
            self.left_out.append(lost)
        return found

    def conversation(self, turns: Sequence[Message], answers: Sequence[str]) -> bool:
        """Whether every reader can read it."""
        return all(reader.answered(turns, answers) if answers else reader.asked(turns) for reader in self.readers)

    def suite(self, suite: Suite) -> Suite:
        """Without the tasks that have no item left."""
        tasks = [replace(one, items=tuple(self.kept(one.name, one.items, _choice_fits(one)))) for one in suite.tasks]
        written = [
            replace(
                one, items=tuple(self.kept(one.name, one.items, lambda reader, item: _request(reader, item.prompt)))
            )
            for one in suite.generations
        ]
        asked = suite.instructions
        if any(reader.kind == "decoder" for reader in self.readers):  # an encoder is asked none
            asked = tuple(self.kept("unrelated requests", asked, _request))
        found = replace(
            suite,
            tasks=tuple(one for one in tasks if one.items),
            generations=tuple(one for one in written if one.items),
            instructions=asked,
        )
        if (suite.tasks or suite.generations) and not (
            found.tasks or found.generations or found.corpora or found.harness
        ):
            raise _nothing_left(f"of the suite '{suite.name}'", self.longest)
        return found


def _longest(texts: Sequence[str]) -> str:
    return max(texts, key=lambda text: len(text.encode()))


def _request(reader: _Reader, request: str) -> bool:
    return reader.asked([Message("user", request)])


def _choice_fits(task: ChoiceTask) -> Fits[Choice]:
    if task.chat:
        return lambda reader, item: reader.answered([Message("user", item.prompt)], item.options)
    return lambda reader, item: reader.continued(item.prompt, item.options)


def _row_fits(target: Target, context: Context) -> Fits[Example]:
    """By what the metric reads of a row: every label, the row's own answers, or the prompt alone."""
    labels = target.labels or tuple(context.answers(target.data)) if target.metric in LABELLED else ()

    def fits(reader: _Reader, row: Example) -> bool:
        if row.text is not None:
            return True
        if target.metric in ("bits_per_byte", "preference_accuracy"):
            return reader.answered(row.prompt, [row.target, *filter(None, [row.rejected])])
        by_head = reader.kind == "encoder" and target.metric == "label_accuracy"
        return reader.answered(row.prompt, labels) if labels and not by_head else reader.asked(row.prompt)

    return fits


def _nothing_left(what: str, longest: int) -> DataError:
    return DataError(
        f"nothing {what} fits the context of {longest:,} tokens.", code="E-DATA-LONG",
        why="What is longer than the context of one of the models is left out of both sides.",
        fix="Shorten the texts, or take models with a longer context.",
    )  # fmt: skip
