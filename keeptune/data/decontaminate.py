"""Test rows that training has seen: the same question, or 13 words in a row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keeptune.core.example import Example
from keeptune.data.normalise import question, whole

WORDS = 13
# A run of words in this many test rows is the task's wording, not a leaked row.
BOILERPLATE_ROWS = 10


@dataclass(frozen=True)
class Overlap:
    """Rows shared by training and test data.

    Attributes:
        exact: (train index, test index) that ask the same after normalisation; one training row per test row.
        ngram: (train index, test index) that share 13 words in a row and are not among `exact`.
        boilerplate: test rows whose shared words are the task's own wording, found in many test rows; not leaks.
    """

    exact: tuple[tuple[int, int], ...]
    ngram: tuple[tuple[int, int], ...]
    boilerplate: int = 0

    def counts(self) -> dict[str, int]:
        """Test rows by kind of overlap."""
        return {"exact": len(self.exact), "ngram": len(self.ngram), "boilerplate": self.boilerplate}


def overlap(train: Sequence[Example], test: Sequence[Example], *, words: int = WORDS) -> Overlap:
    """Finds leaked test rows, exactly and by runs of `words` words (Brown et al. 2020, appendix C, use 13).

    Text is normalised (case, punctuation, layout; ideographs count as words). Memory grows with the test rows only.

    Args:
        train: rows that are learned from.
        test: rows that are measured.
        words: length of a run.
    """
    asked = defaultdict(list)
    for index, example in enumerate(test):
        asked[question(example)].append(index)
    runs: dict[int, list[int]] = defaultdict(list)
    for index, example in enumerate(test):
        for run in set(_runs(whole(example), words)):
            runs[run].append(index)
    exact: dict[int, int] = {}
    shared: dict[int, int] = {}
    worn: set[int] = set()
    for index, example in enumerate(train):
        for found in asked.get(question(example), ()):
            exact.setdefault(found, index)
        for run in _runs(whole(example), words):
            found_rows = runs.get(run, ())
            if len(found_rows) >= BOILERPLATE_ROWS:
                worn.update(found_rows)
            else:
                for found in found_rows:
                    shared.setdefault(found, index)
    pairs = tuple(sorted((index, found) for found, index in shared.items() if found not in exact))
    leaked = exact.keys() | shared.keys()
    return Overlap(tuple(sorted((index, found) for found, index in exact.items())), pairs, len(worn - leaked))


def duplicates(examples: Sequence[Example]) -> int:
    """Rows whose question an earlier row has asked, after normalisation."""
    times = Counter(question(example) for example in examples)
    return sum(count - 1 for count in times.values())


def _runs(tokens: Sequence[str], words: int) -> Iterator[int]:
    """Hashes of all runs of `words` words; equal text gives equal hashes within one process, which is all we need."""
    return (hash(tuple(tokens[start : start + words])) for start in range(len(tokens) - words + 1))
