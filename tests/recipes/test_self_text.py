"""Rows in the base's own words: as many as were asked for, as long as the base writes any that are of use."""

from __future__ import annotations

import random

from keeptune.recipes.self_text import DRAWS, _until_enough


class Writer:
    """Writes a row that is of use with some probability, each different."""

    def __init__(self, share, kinds=10**9):
        self.share, self.kinds, self.drawn, self.seeds = share, kinds, [], []

    def __call__(self, count, seed):
        self.drawn.append(count)
        self.seeds.append(seed)
        chance = random.Random(seed)
        for _ in range(count):
            if chance.random() < self.share:
                yield {"text": str(chance.randrange(self.kinds))}


def test_all_rows_come_though_few_draws_are_of_use_and_few_rounds_are_needed():
    write = Writer(0.15)
    rows = _until_enough(write, 300, seed=7)
    assert len(rows) == 300
    assert len({row["text"] for row in rows}) == 300
    assert len(write.drawn) <= 6
    assert sum(write.drawn) <= 300 / 0.15 * 1.3
    assert len(set(write.seeds)) == len(write.seeds)


def test_what_is_always_of_use_is_drawn_once():
    write = Writer(1.0)
    assert len(_until_enough(write, 20, seed=0)) == 20
    assert write.drawn == [20]


def test_a_base_that_writes_nothing_of_use_or_always_the_same_ends_the_search():
    for write, expected in ((Writer(0.0), 0), (Writer(1.0, kinds=3), 3)):
        assert len(_until_enough(write, 50, seed=1)) == expected
        assert sum(write.drawn) == DRAWS * 50


def test_nothing_wanted_is_nothing_drawn():
    write = Writer(1.0)
    assert _until_enough(write, 0, seed=1) == []
    assert write.drawn == []
