"""What a probe is asked about each unit, and the control task beside it.

A control task (Hewitt & Liang 2019, arXiv:1909.03368) keeps the inputs, the answers that are possible and how often
they come, and takes the linguistics out: what is to be answered depends on the word's type alone, drawn at random. A
probe can only learn it by heart, so

    selectivity = accuracy on the task - accuracy on its control task

says how much of an accuracy is the representation's rather than the probe's.

Differences to the authors' code, which draws with numpy's global state while it walks through the corpus: a type's
draw here depends on the seed and the type only, so that more data changes no draw; the distribution is that of the
training part at hand instead of a table for one corpus; and the root's edge, which no word is the answer to, is left
out of both tasks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keeptune.data.treebank import Sentence

UNSCORED = -1
ENDS = ("itself", "first", "last")
Answers = tuple[int, ...]


@dataclass(frozen=True)
class ProbeTask:
    """One question, for every unit of every text.

    Attributes:
        name: a column of the treebank, `edges`, or `label`.
        kind: `labels`: a class for each unit; `edges`: for each unit another unit of its text.
        classes: the labels in order; none for edges.
        answers: by part, for each text, for each unit: a class, or the place of the head; -1 is not asked.
    """

    name: str
    kind: Literal["labels", "edges"]
    classes: tuple[str, ...]
    answers: dict[str, tuple[Answers, ...]]


def column_task(parts: dict[str, Sequence[Sentence]], column: str) -> ProbeTask:
    """The classes of a column, those of every part."""
    cells = {part: [sentence.columns[column] for sentence in found] for part, found in parts.items()}
    classes = tuple(sorted({cell for found in cells.values() for row in found for cell in row}))
    number = {name: place for place, name in enumerate(classes)}
    answers = {part: tuple(tuple(number[cell] for cell in row) for row in found) for part, found in cells.items()}
    return ProbeTask(column, "labels", classes, answers)


def edge_task(parts: dict[str, Sequence[Sentence]]) -> ProbeTask:
    """Each word's head, as its place in the sentence; the root's is not asked."""
    answers = {
        part: tuple(tuple(int(head) - 1 for head in sentence.columns["head"]) for sentence in found)
        for part, found in parts.items()
    }
    return ProbeTask("edges", "edges", (), answers)


def label_task(parts: dict[str, Sequence[str]]) -> ProbeTask:
    """One label for each text."""
    classes = tuple(sorted({label for found in parts.values() for label in found}))
    number = {name: place for place, name in enumerate(classes)}
    return ProbeTask(
        "label", "labels", classes, {part: tuple((number[label],) for label in found) for part, found in parts.items()}
    )


def control_of(task: ProbeTask, types: dict[str, Sequence[Sequence[str]]], seed: int) -> ProbeTask:
    """The control task: every unit's answer by its type, asked of the same units.

    A class is drawn from the distribution of classes over the training units; an edge goes to the word itself, to the
    first or to the last word of the sentence, each with one third.

    Args:
        task: beside which it stands.
        types: by part, for each text, for each unit: its type. Of a word that is its spelling; of a whole text, where
            the paper has no control, its first word.
        seed: another seed draws other answers.
    """
    counts = Counter(answer for row in task.answers["train"] for answer in row if answer != UNSCORED)
    answers = {
        part: tuple(
            tuple(
                UNSCORED if own == UNSCORED else _drawn(task, name, place, len(row), counts, seed)
                for place, (own, name) in enumerate(zip(row, names, strict=True))
            )
            for row, names in zip(found, types[part], strict=True)
        )
        for part, found in task.answers.items()
    }
    return ProbeTask(f"{task.name} control", task.kind, task.classes, answers)


def _drawn(task: ProbeTask, name: str, place: int, length: int, counts: Counter[int], seed: int) -> int:
    share = chance(f"{seed}|{task.name}|{name}")
    if task.kind == "edges":
        return {"itself": place, "first": 0, "last": length - 1}[ENDS[int(share * len(ENDS))]]
    mark = share * counts.total()
    for answer, count in sorted(counts.items()):
        if mark < count:
            return answer
        mark -= count
    return max(counts)


def chance(content: str) -> float:
    """A number in [0, 1) that the content alone decides."""
    return int.from_bytes(hashlib.sha256(content.encode("utf-8", "backslashreplace")).digest()[:6], "big") / 2**48
