"""Of many sampled answers to a question, the right ones, one for each way of getting there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keeptune.core.example import Example
from keeptune.data.edit_distance import edit_distance
from keeptune.data.verifiers import Verifier


@dataclass
class Sifted:
    """The answers to one question that stay, by their way.

    Attributes:
        example: the question.
        ways: way to text, in the order in which the ways were found.
        counts: every answer under what became of it: `right`, or the verifier's word for its fault.
    """

    example: Example
    ways: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def kept(self, most: int | None) -> list[str]:
        """At most so many texts: the ways that were found first."""
        return list(self.ways.values())[:most]


def sift(example: Example, answers: Iterable[str], verifier: Verifier) -> Sifted:
    """Takes the answers in order; of two that go the same way, the one stays that is farther from the others.

    Far is the sum of Levenshtein distances to the texts of the question's other ways, as in arXiv:2308.01825; at a draw
    the earlier one stays.
    """
    found = Sifted(example)
    for answer in answers:
        fault = verifier.fault(example, answer)
        found.counts[fault or "right"] += 1
        if fault is not None:
            continue
        way = verifier.way(answer)
        held = found.ways.get(way)
        if held is None:
            found.ways[way] = answer
        elif held != answer:
            others = [text for key, text in found.ways.items() if key != way]
            if _apart(answer, others) > _apart(held, others):
                found.ways[way] = answer
    return found


def told(sifted: Sequence[Sifted], most: int | None) -> dict[str, int]:
    """Counts over all questions: each answer under `right` or its fault, and what became of the right ones."""
    counts: Counter[str] = Counter()
    for one in sifted:
        counts.update(one.counts)
    ways, kept = (sum(len(one.kept(bound)) for one in sifted) for bound in (None, most))
    return {
        "questions": len(sifted),
        "answers": sum(counts.values()),
        **dict(sorted(counts.items())),
        "same way as another": counts["right"] - ways,
        "beyond the cap": ways - kept,
        "kept": kept,
        "questions with an answer kept": sum(bool(one.kept(most)) for one in sifted),
    }


def _apart(text: str, others: Sequence[str]) -> int:
    return sum(edit_distance(text, other) for other in others)
