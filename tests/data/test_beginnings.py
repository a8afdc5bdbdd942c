"""What rows begin with, against every pair of rows."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from keeptune.data.beginnings import SHORTEST, computed, tree
from keeptune.data.encode import Encoded
from keeptune.data.pairs import paired


def drawn(count: int, seed: int) -> list[Encoded]:
    """Rows of three tokens, so that many begin alike, each with a prompt and an answer."""
    generator = random.Random(seed)
    made = []
    for number in range(count):
        prompt, answer = generator.randrange(0, 40), generator.randrange(1, 4)
        base = made[generator.randrange(len(made))].tokens[: generator.randrange(40)] if made else ()
        tokens = (*base, *(generator.randrange(3) for _ in range(60)))[: prompt + answer]
        made.append(Encoded(f"r{number}", "task", tokens, (False,) * prompt + (True,) * answer))
    return made


def shared(one: Encoded, other: Encoded) -> int:
    """Tokens that two rows may share."""
    most = [max(0, list(row.learned).index(True) - 1) for row in (one, other)]
    alike = 0
    while alike < min(most) and one.tokens[alike] == other.tokens[alike]:
        alike += 1
    return alike


@pytest.mark.parametrize("seed", range(20))
def test_each_row_is_its_parts_and_what_two_rows_share_comes_once(seed):
    rows = drawn(30, seed)
    parts = list(tree(rows))
    ends = [part for part in parts if part.end is None]
    assert sorted(part.row for part in ends) == list(range(len(rows)))
    paths = {}
    for part in ends:
        path, above = [], part
        while above is not None:
            path.insert(0, above)
            above = above.parent
        tokens = tuple(token for one in path for token in rows[one.row].tokens[one.start : one.end])
        assert tokens == rows[part.row].tokens
        assert all(parts.index(one) < parts.index(other) for one, other in itertools.pairwise(path))
        paths[part.row] = path
    for one in range(len(rows)):
        for other in range(one):
            common = [part.end for part in paths[one] if part in paths[other]]
            alike = shared(rows[one], rows[other])
            # What is left of it is too short for a part of its own.
            assert alike - (common[-1] if common else 0) < SHORTEST
            assert not common or common[-1] <= alike


def test_tokens_are_counted_as_they_are_laid_out():
    instruction = tuple(range(3, 23))
    rows = [Encoded(f"r{n}", "task", (*instruction, 50 + n, 60, 61), (False,) * 22 + (True,)) for n in range(4)]
    assert computed(rows) == 20 + 4 * 3
    assert computed([replace(row, source=f"s{n}") for n, row in enumerate(rows)]) == 4 * 23
    assert [part.end for part in tree(rows, ["a", "a", None, "b"])] == [20, None, None, None, None]


def test_the_two_endings_of_a_pair_share_their_prompt():
    prompt, better, worse = tuple(range(3, 23)), (30, 31), (40, 41, 42)
    endings = (
        Encoded("r", "task", (*prompt, *answer), (False,) * 20 + (True,) * len(answer)) for answer in (better, worse)
    )
    assert computed([paired(*endings)]) == 19 + 3 + 4
