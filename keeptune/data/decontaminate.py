"""Test rows that training has seen: the same question, nearly the same, or 13 words in a row."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.data.minhash import NEAR, Runs, band_keys, runs_of, signature, similarity
from keeptune.data.normalise import question, whole

WORDS = 13
# A run of words in this many test rows is the task's wording, not a leaked row.
BOILERPLATE_ROWS = 10
UNSIGNED = 2**64 - 1

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Overlap:
    """Rows shared by training and test data, as (train index, test index); one training row for each test row.

    Attributes:
        exact: ask the same after normalisation.
        near: share four fifths of their runs of three words (Jaccard index of the questions) and are not `exact`.
        ngram: share 13 words in a row and are neither.
        boilerplate: test rows whose shared words are the task's own wording, found in many test rows; not leaks.
    """

    exact: Pairs
    near: Pairs
    ngram: Pairs
    boilerplate: int = 0

    def counts(self) -> dict[str, int]:
        """Test rows by kind of overlap."""
        kinds = {"exact": self.exact, "near": self.near, "ngram": self.ngram}
        return {**{name: len(pairs) for name, pairs in kinds.items()}, "boilerplate": self.boilerplate}


@dataclass(frozen=True)
class TrainedRow:
    """A row that is learned from, as comparisons see it: made once, held against any number of sets of test rows.

    Attributes:
        example: the row.
        words: length of a run that is a leak.
    """

    example: Example
    words: int = WORDS

    @cached_property
    def asked(self) -> str:
        """The question, normalised."""
        return question(self.example)

    @cached_property
    def near_runs(self) -> Runs:
        """The question's runs of three words."""
        return runs_of(self.asked.split())

    @cached_property
    def bands(self) -> list[bytes]:
        """What a near question shares in one band at least; none for questions without runs."""
        return band_keys(signature(self.near_runs)) if len(self.near_runs) else []

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Of all runs of `words` words, question and answer."""
        return np.array(list(_runs(whole(self.example), self.words)), np.uint64)


class TestRows:
    """Rows that are measured, against which training rows are held one by one; memory grows with the test rows only.

    Args:
        test: rows that are measured.
        words: length of a run that is a leak (Brown et al. 2020, appendix C, use 13).
    """

    __test__ = False  # no test class, whatever pytest takes its name for

    def __init__(self, test: Sequence[Example], *, words: int = WORDS) -> None:
        self._words = words
        self._asked: dict[str, list[int]] = defaultdict(list)
        self._near: dict[bytes, list[int]] = defaultdict(list)
        self._runs: list[Runs] = []
        hashes, owners = array("Q"), array("L")
        for index, example in enumerate(test):
            asked = question(example)
            self._asked[asked].append(index)
            self._runs.append(runs_of(asked.split()))
            if len(self._runs[-1]):
                for key in band_keys(signature(self._runs[-1])):
                    self._near[key].append(index)
            own = set(_runs(whole(example), words))
            hashes.extend(own)
            owners.extend([index] * len(own))
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable") if hashes else np.empty(0, np.intp)
        self._hashes = np.frombuffer(hashes, np.uint64)[order] if hashes else np.empty(0, np.uint64)
        self._owners = np.array(owners, np.int64)[order]
        self._found: dict[str, dict[int, int]] = {"exact": {}, "near": {}, "ngram": {}}
        self._worn: set[int] = set()

    def see(self, index: int, row: TrainedRow) -> None:
        """Takes a row that is learned from; its runs have the length of ours."""
        if not self._asked:
            return
        for found in self._asked.get(row.asked, ()):
            self._found["exact"].setdefault(found, index)
        if self._near:
            self._see_near(index, row)
        if len(self._hashes):
            self._see_runs(index, row.hashes)

    def overlap(self) -> Overlap:
        """What was found up to now."""
        exact, near, ngram = (self._found[kind] for kind in ("exact", "near", "ngram"))
        kept_near = {row: by for row, by in near.items() if row not in exact}
        kept_ngram = {row: by for row, by in ngram.items() if row not in exact and row not in near}
        leaked = exact.keys() | near.keys() | ngram.keys()
        return Overlap(_pairs(exact), _pairs(kept_near), _pairs(kept_ngram), len(self._worn - leaked))

    def _see_near(self, index: int, row: TrainedRow) -> None:
        candidates = {found for key in row.bands for found in self._near.get(key, ())}
        for found in candidates - self._found["near"].keys():
            if similarity(row.near_runs, self._runs[found]) >= NEAR:
                self._found["near"][found] = index

    def _see_runs(self, index: int, wanted: NDArray[np.uint64]) -> None:
        starts = np.searchsorted(self._hashes, wanted, "left")
        ends = np.searchsorted(self._hashes, wanted, "right")
        for start, end in zip(starts[ends > starts].tolist(), ends[ends > starts].tolist(), strict=True):
            rows = self._owners[start:end].tolist()
            if len(rows) >= BOILERPLATE_ROWS:
                self._worn.update(rows)
            else:
                for found in rows:
                    self._found["ngram"].setdefault(found, index)


def overlap(train: Iterable[Example], test: Sequence[Example], *, words: int = WORDS) -> Overlap:
    """Finds leaked test rows: exact, near, and by runs of `words` words.

    Text is normalised (case, punctuation, layout; ideographs count as words).
    """
    held = TestRows(test, words=words)
    for index, example in enumerate(train):
        held.see(index, TrainedRow(example, words))
    return held.overlap()


def duplicates(examples: Sequence[Example]) -> int:
    """Rows whose question an earlier row has asked, after normalisation."""
    times = Counter(question(example) for example in examples)
    return sum(count - 1 for count in times.values())


def _pairs(found: dict[int, int]) -> Pairs:
    return tuple(sorted((index, row) for row, index in found.items()))


def _runs(tokens: Sequence[str], words: int) -> Iterator[int]:
    """Hashes of all runs of `words` words; equal text gives equal hashes within one process, which is all we need."""
    starts = range(len(tokens) - words + 1)
    return (hash(tuple(tokens[start : start + words])) & UNSIGNED for start in starts)
