"""Train, dev and test parts that stay the same when rows are added, reordered or repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.normalise import question

TRAIN = "train"


def split(examples: Sequence[Example], fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[int]]:
    """Assigns every example to `train` or to one of the named parts.

    A row's part is a hash of what is asked (normalised) and the seed: rows that ask the same never straddle two
    parts, and a row keeps its part whatever happens to the others. Sizes are therefore right on average only.

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
    parts: dict[str, list[int]] = {name: [] for name in (TRAIN, *fractions)}
    for index, example in enumerate(examples):
        parts[_part(question(example), fractions, seed)].append(index)
    bare = next((name for name, rows in parts.items() if not rows), None)
    if bare is not None:
        raise DataError(
            f"{len(examples)} rows are too few: the part '{bare}' would be empty.",
            code="E-DATA-SPLIT",
            fix=f"Give a file for '{bare}', or raise its share.",
        )
    return parts


def _part(content: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}|{content}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in fractions.items():
        if place < share:
            return name
        place -= share
    return TRAIN
