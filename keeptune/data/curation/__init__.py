"""Rules that keep an answer or remove it by what it says: named, counted, switched on and off; one file each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import StringConstraints

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.spec import Spec
from keeptune.data.formats import FileFormat
from keeptune.data.read import empty_counts
from keeptune.data.rows import read_rows
from keeptune.data.source_file import locate

Bound = float | Annotated[str, StringConstraints(pattern=r"^q(0|1|0?\.\d+)$")]
"""A number, or a quantile of what is curated, such as `q0.9`."""


@dataclass(frozen=True)
class Candidate:
    """A question with its answer.

    Attributes:
        example: the conversation.
        group: the exchange, site or file that it comes from.
        score: votes for the answer; None where none are stated.
        asked: votes for the question.
        title: of the question, where it has one.
    """

    example: Example
    group: str
    score: float | None = None
    asked: float | None = None
    title: str = ""

    @property
    def answer(self) -> str:
        """What is learned."""
        return self.example.target


class Rule(Spec, shelf="keeptune.data.curation"):
    """One rule of curation; `order` says when it is asked."""

    order: ClassVar[int] = 0

    def fitted(self, candidates: Sequence[Candidate]) -> Rule:
        """The rule with every quantile replaced by its value among all candidates of a group."""
        return self

    def reason(self, candidate: Candidate) -> str | None:
        """Why the candidate is removed, in words; None keeps it."""
        raise NotImplementedError

    def rewritten(self, candidate: Candidate) -> Candidate:
        """The candidate as it is kept."""
        return candidate


def value_of(bound: Bound, values: Sequence[float]) -> float:
    """The number that a bound stands for: itself, or the quantile of `values` (0 when there are none)."""
    import numpy as np

    if isinstance(bound, str):
        return float(np.quantile(values, float(bound[1:]))) if len(values) else 0.0
    return float(bound)


def candidates_of(source: FileFormat, group: str, folder: Path | None = None) -> Iterator[Candidate | DataError]:
    """Every question of a file with its answer, or the complaint about its row.

    Votes are `Score` of a post, or a number under `score` in any other row.

    Raises:
        DataError: the file cannot be read.
    """
    path = locate(source.path, folder)
    for row in source.arrange(read_rows(path, source.row_bytes, empty_counts())):
        if isinstance(row.values, DataError):
            yield row.values
            continue
        values = row.values
        try:
            example = replace(source.read_row(values, row.place), source=group)
        except DataError as error:
            yield error
            continue
        answer = values.get("Answer")
        votes = answer.get("Score") if isinstance(answer, dict) else values.get("score")
        title = str(values.get("Title") or values.get("title") or "")
        yield Candidate(example, group, _number(votes), _number(values.get("Score")), title)


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
