"""RDS+ against a loop that crosses off what was taken."""

from __future__ import annotations

import numpy as np
import pytest

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector
from tests.selectors.conftest import directions


def examples(count: int) -> list[Example]:
    return [Example(str(number), text="a") for number in range(count)]


@pytest.mark.parametrize("count", [1, 30, 80])
def test_queries_take_turns_and_nothing_twice(count):
    pool, queries = directions(80, 5), directions(7, 5, seed=9)
    context = Context(embeddings=pool, queries=examples(7), query_embeddings=queries)
    chosen = validate(Selector, {"name": "rds", "rows": count}).select(examples(80), context)
    left, expected = set(range(80)), []
    for turn in range(count):
        likeness = {place: float(pool[place] @ queries[turn % 7]) for place in left}
        taken = max(sorted(likeness), key=lambda place: likeness[place])
        expected.append(taken)
        left.remove(taken)
    assert list(chosen.indices) == expected
    turns = np.arange(count) % 7
    np.testing.assert_allclose(chosen.scores, (pool[expected] * queries[turns]).sum(axis=1), atol=1e-6)


def test_without_queries_the_error_says_how_to_name_them():
    with pytest.raises(DataError) as caught:
        validate(Selector, "rds").select(examples(3), Context(embeddings=directions(3, 2)))
    assert caught.value.code == "E-SELECT-QUERIES"
    assert "--queries" in caught.value.fix
