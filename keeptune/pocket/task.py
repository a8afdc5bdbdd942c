"""The embedded task: name the library area that a docstring documents, in one word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from keeptune.core.digest import digest_of
from keeptune.core.errors import MachineError
from keeptune.core.example import Example, Message
from keeptune.data.suite import stable_id
from keeptune.pocket.areas import AREAS, LABELS
from keeptune.pocket.harvest import Docstring, docstrings
from keeptune.pocket.prose import paragraphs

INSTRUCTION = "Which area of a library does this text document?"
SHORTEST, LONGEST = 8, 24
"""Words of a docstring that the prompt shows: enough to tell, short enough for a small model."""
MOST_FILES = 120
"""Source files read per place: enough rows, in a second or two."""


@dataclass(frozen=True)
class EmbeddedTask:
    """The rows of the task; no two rows, of whatever parts, share thirteen words in a row.

    Attributes:
        labels: every possible answer.
        train, dev, test: rows of the known packages.
        ood: rows of packages that no other part has seen.
    """

    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    ood: tuple[Example, ...]

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing a label at random."""
        return 1.0 / len(self.labels)

    @property
    def majority(self) -> float:
        """Accuracy on the test rows of always answering the commonest training label."""
        answer = Counter(row.target for row in self.train).most_common(1)[0][0]
        return sum(row.target == answer for row in self.test) / len(self.test)

    def digest(self) -> str:
        """SHA-256 of all rows; it differs between machines with other package versions."""
        parts = (self.train, self.dev, self.test, self.ood)
        return digest_of([[(row.id, row.messages[0].content, row.target) for row in part] for part in parts])


@cache
def build_task(seed: int = 0, train: int = 170, dev: int = 25, test: int = 50) -> EmbeddedTask:
    """Harvest the task's rows.

    Args:
        seed: fixes which rows are drawn.
        train: most rows per label for training; areas with less documentation give fewer.
        dev: most rows per label for selection.
        test: most rows per label for the proof, and as many for the out-of-distribution rows.

    Raises:
        MachineError: too little documentation is installed (E-POCKET-TEXT).
    """
    parts: dict[str, list[Example]] = {"train": [], "dev": [], "test": [], "ood": []}
    sizes = {"train": train, "dev": dev, "test": test}
    taken: set[str] = set()
    for area in AREAS:
        random = Random(f"task/{seed}/{area.label}")
        known = _rows(docstrings(area.known, most_files=MOST_FILES), area.label, taken)
        random.shuffle(known)
        total, start = sum(sizes.values()), 0
        for part, size in sizes.items():
            stop = start + min(size, len(known) * size // total)
            parts[part] += known[start:stop]
            start = stop
        unseen = _rows(docstrings(area.unseen, most_files=MOST_FILES), area.label, taken)
        parts["ood"] += random.sample(unseen, min(test, len(unseen)))
    for name, chosen in parts.items():
        Random(f"task/{seed}/{name}").shuffle(chosen)
    found = {row.target for row in parts["test"]}
    if len(found) < len(LABELS):
        missing = ", ".join(label for label in LABELS if label not in found)
        raise MachineError(
            f"the embedded task finds no documentation about: {missing}.",
            code="E-POCKET-TEXT",
            why="It reads the docstrings of installed packages, and this installation has them stripped.",
            fix="Reinstall the packages with their Python sources, or use your own data with `keeptune init`.",
        )
    return EmbeddedTask(LABELS, *(tuple(parts[name]) for name in ("train", "dev", "test", "ood")))


def question(text: str) -> str:
    """The user's turn for one docstring."""
    return f"{INSTRUCTION}\n\n{text}"


def _rows(found: Iterator[Docstring], label: str, taken: set[str]) -> list[Example]:
    """A row for each docstring with enough prose; `taken` collects 13-grams, and a row that repeats one is dropped."""
    rows = []
    for docstring in found:
        words = " ".join(paragraphs(docstring.text)).split()[:LONGEST]
        lower = [word.lower() for word in words]
        grams = {" ".join(lower[start : start + 13]) for start in range(max(1, len(words) - 12))}
        if len(words) < SHORTEST or grams & taken:
            continue
        taken |= grams
        text = " ".join(words)
        turns = (Message("user", question(text)), Message("assistant", label))
        rows.append(Example(stable_id(label, text), messages=turns, source="embedded"))
    return rows
