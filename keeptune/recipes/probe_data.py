"""The texts, questions and types of a probing run, from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeptune.core.errors import DataError, RecipeError
from keeptune.data.guess import guess_format
from keeptune.data.probe_tasks import ProbeTask, chance, column_task, edge_task, label_task
from keeptune.data.read import read_examples
from keeptune.data.treebank import Sentence, read_treebank
from keeptune.data.word_tokens import Pooling, UnitEncoder, UnitRow

PARTS = ("train", "dev", "test")
HELD_OUT = {"dev": 0.1, "test": 0.1}
EDGES, LABEL = "edges", "label"


@dataclass(frozen=True)
class Labelled:
    """A text and what is said about it."""

    id: str
    text: str
    label: str


@dataclass(frozen=True)
class ProbeData:
    """What is asked, of which texts.

    Attributes:
        texts: by part.
        task: the question.
        types: by part, for each text, for each unit: what its control answer depends on.
    """

    texts: dict[str, Sequence[Any]]
    task: ProbeTask
    types: dict[str, Sequence[Sequence[str]]]

    def encoded(self, encoder: UnitEncoder, pooling: Pooling) -> dict[str, list[UnitRow]]:
        """Every text as tokens and units.

        Raises:
            RecipeError: pooling by a first token that the tokenizer does not write (E-PROBE-POOLING).
        """
        if self.task.name != LABEL:
            return {part: [encoder.words(sentence) for sentence in found] for part, found in self.texts.items()}
        if pooling == "cls" and not encoder.framed:
            raise RecipeError(
                "this tokenizer writes no special token before a text.", code="E-PROBE-POOLING",
                fix="Use --pooling mean or last.",
            )  # fmt: skip
        return {part: [encoder.text(one.id, one.text, pooling) for one in found] for part, found in self.texts.items()}

    def only(self, places: dict[str, Sequence[int]]) -> ProbeData:
        """Some of the texts of each part."""
        answers = {part: tuple(self.task.answers[part][place] for place in own) for part, own in places.items()}
        return ProbeData(
            {part: [self.texts[part][place] for place in own] for part, own in places.items()},
            ProbeTask(self.task.name, self.task.kind, self.task.classes, answers),
            {part: [self.types[part][place] for place in own] for part, own in places.items()},
        )


def probe_data(files: dict[str, Path], task: str, rows: int | None) -> ProbeData:
    """Reads the parts of one task.

    Args:
        files: `train`, and `dev` and `test` where there are files of their own; a tenth of the texts is drawn for each
            that is missing, by a hash of the text, so that equal texts stay together.
        task: `edges`, `label` (one answer per text, in any format) or a column of a treebank.
        rows: most texts per part, drawn by the same hash.

    Raises:
        DataError: a file cannot be read, or a part is empty (E-PROBE-PART).
    """
    shares = {part: share for part, share in HELD_OUT.items() if part not in files}
    drawn: dict[str, list[Any]] = {part: [] for part in PARTS}
    for one in _read(files["train"], task):
        drawn[_part(one.text, shares)].append(one)
    drawn |= {part: list(_read(path, task)) for part, path in files.items() if part != "train"}
    parts = {part: _first(drawn[part], rows) for part in PARTS}
    for part, found in parts.items():
        if not found:
            raise DataError(
                f"no text is left for the part '{part}'.", code="E-PROBE-PART", where={"file": files["train"]},
                fix=f"Give a file of its own with --{part}, or more texts." if part != "train" else "Give more texts.",
            )  # fmt: skip
    if task == LABEL:
        made = label_task({part: [one.label for one in found] for part, found in parts.items()})
        first = {part: [one.text.split()[:1] or [""] for one in found] for part, found in parts.items()}
        return ProbeData(dict(parts), made, dict(first))
    made = edge_task(dict(parts)) if task == EDGES else column_task(dict(parts), task)
    return ProbeData(dict(parts), made, {part: [one.words for one in found] for part, found in parts.items()})


def _read(path: Path, task: str) -> Sequence[Sentence] | Sequence[Labelled]:
    if task != LABEL:
        return read_treebank(path, ["head" if task == EDGES else task])
    source = guess_format(str(path)).format
    examples = [one for one in read_examples(source, "data").examples if one.text is None]
    if not examples:
        raise DataError(
            "no row has an answer.", code="E-PROBE-LABEL", where={"file": path},
            fix="The task `label` needs a request and an answer in each row; a treebank has columns: --task upos.",
        )  # fmt: skip
    return [Labelled(one.id, "\n".join(turn.content for turn in one.prompt), one.target) for one in examples]


def _part(text: str, shares: dict[str, float]) -> str:
    place = chance(f"part|{text}")
    for part, share in shares.items():
        if place < share:
            return part
        place -= share
    return "train"


def _first(texts: list[Any], rows: int | None) -> list[Any]:
    if rows is None or len(texts) <= rows:
        return texts
    order = sorted(range(len(texts)), key=lambda place: (chance(f"rows|{texts[place].text}"), place))
    return [texts[place] for place in sorted(order[:rows])]
