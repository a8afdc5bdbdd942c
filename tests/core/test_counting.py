"""A count and its noun agree, in every message and on every page."""

from __future__ import annotations

import pytest

from keeptune.core.counting import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234567, "1,234,567 rows"), (-1, "-1 rows")]
)
def test_there_is_one_row_and_there_are_two_rows(count, words):
    assert counted(count, "row") == words


def test_a_noun_may_have_a_plural_of_its_own_and_bring_its_verb():
    assert [counted(count, "entry is", "entries are") for count in (1, 3)] == ["1 entry is", "3 entries are"]
