"""Dedupe against exact Jaccard indices of every pair."""

from __future__ import annotations

import numpy as np

from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector

LONG = "the quick brown fox jumps over the lazy dog while seven small birds sing in the old apple tree behind our house"


def rows(texts: list[str]) -> list[Example]:
    return [Example(str(number), text=text) for number, text in enumerate(texts)]


def select(texts: list[str], **settings):
    return validate(Selector, {"name": "dedupe", **settings}).select(rows(texts), Context())


def test_exact_copies_differ_in_case_and_punctuation_only():
    chosen = select(["Hello, world!", "hello world", "Hello, moon!", "HELLO WORLD."])
    assert chosen.indices == (0, 2)
    assert chosen.scores == (3.0, 1.0)


def test_near_copies_go_and_what_shares_little_stays():
    words = LONG.split()
    generator = np.random.default_rng(0)
    near = " ".join([*words[:-1], "garden"])
    far = " ".join(generator.permutation(words))
    texts = [LONG, far, near, near.upper()]
    assert select(texts).indices == (0, 1)
    assert select(texts, near=False).indices == (0, 1, 2)
    assert select(texts).scores == (3.0, 1.0)


def test_short_texts_are_compared_exactly_and_the_budget_holds():
    texts = ["is my card lost", "is my card late", "is my card here"]
    assert select(texts).indices == (0, 1, 2)
    assert select(texts, rows=2).indices == (0, 1)
