"""Train, dev and test parts: as the rows state them, else by a hash that no other row can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.normalise import question

TRAIN, OOD = "train", "ood"
STATED = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
    OOD: OOD,
}


def split(examples: Sequence[Example], fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[int]]:
    """Assigns every example to `train` or to one of the named parts.

    A row's part is a hash of what is asked (normalised) and the seed: rows that ask the same never straddle two
    parts, and a row keeps its part whatever happens to the others. Sizes are therefore right on average only.

    What the rows themselves state comes first (`Example.part`): a part that some row names is made of exactly the rows
    that name it, and the hash draws only the parts that none names. When all rows state the same, that says nothing.

    Args:
        examples: of one source.
        fractions: share of each part beside `train`, such as `{"dev": 0.1, "test": 0.1}`; the sum is below 1.
        seed: another seed gives another split.

    Returns:
        Indices into `examples`, by part, ascending.

    Raises:
        DataError: a part would be empty (E-DATA-SPLIT).
    """
    assert all(share > 0 for share in fractions.values()), "shares are positive"
    assert sum(fractions.values()) < 1, "something is left for train"
    draw = Draw(fractions, seed, stated_parts(example.part for example in examples))
    parts: dict[str, list[int]] = {name: [] for name in draw.names}
    for index, example in enumerate(examples):
        parts[draw.part(example)].append(index)
    bare = next((name for name, rows in parts.items() if not rows), None)
    if bare is not None:
        raise DataError(
            f"{counted(len(examples), 'row is', 'rows are')} too few: the part '{bare}' would be empty.",
            code="E-DATA-SPLIT",
            fix=f"Give a file for '{bare}', or raise its share.",
        )
    return parts


def within(example: Example, share: float, seed: int) -> bool:
    """Whether a row is in the subset of that share, by a hash of its question.

    A smaller subset is inside a larger one, and rows that ask the same are in or out together.
    """
    return share >= 1 or _place(f"subset|{seed}|{question(example)}") < share


class Draw:
    """Tells the part of one row at a time.

    Args:
        fractions: share of each part beside `train`.
        seed: another seed gives another split.
        stated: the parts that rows of this source tell apart, from `stated_parts`.
    """

    def __init__(self, fractions: Mapping[str, float], seed: int, stated: frozenset[str] = frozenset()) -> None:
        self.stated, self.seed = stated, seed
        self.names = tuple(dict.fromkeys((TRAIN, *fractions, *sorted(stated))))
        self._drawn = {name: share for name, share in fractions.items() if name not in stated}

    def part(self, example: Example) -> str:
        """What the row states, else what the hash of its question draws."""
        if example.part in self.stated and example.part != TRAIN:
            return example.part
        return _part(question(example), self._drawn, self.seed)


def stated_parts(said: Iterable[str]) -> frozenset[str]:
    """The parts that rows tell apart: none when they name fewer than two. What is out of distribution always is."""
    found = frozenset(said)
    return found - {""} if len(found) > 1 or OOD in found else frozenset()


def stated_part(value: object) -> str:
    """`train`, `dev`, `test` or `ood` as a row's `split` column says it, else nothing.

    >>> [stated_part(value) for value in ("Validation", "oos_test", "OOD", "fold 3", None)]
    ['dev', 'test', 'ood', '', '']
    """
    return STATED.get(value.strip().lower().rsplit("_", 1)[-1], "") if isinstance(value, str) else ""


def _part(content: str, fractions: Mapping[str, float], seed: int) -> str:
    place = _place(f"{seed}|{content}")
    for name, share in fractions.items():
        if place < share:
            return name
        place -= share
    return TRAIN


def _place(content: str) -> float:
    """A number from 0 to 1 that the content alone decides."""
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
