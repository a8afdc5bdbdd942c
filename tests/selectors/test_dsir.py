"""DSIR against counts by hand, and its draw against the chances it should have."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector
from keeptune.selectors.dsir import hashed

POOL = ["sun and sea and sand", "profit and loss of the bank", "sea of sun", "the bank of the river", "loss of sand"]
QUERIES = ["sun sea", "sea sand sun and sea"]


def rows(texts: list[str]) -> list[Example]:
    return [Example(str(number), text=text) for number, text in enumerate(texts)]


def parts(text: str) -> list[str]:
    words = text.split()
    return [*words, *(f"{one} {other}" for one, other in itertools.pairwise(words))]


def slow_weights(smoothing: float) -> list[float]:
    """With a dictionary of words and pairs in place of buckets."""
    wanted, own = (Counter(part for text in texts for part in parts(text)) for texts in (QUERIES, POOL))
    share = {part: (wanted[part] / wanted.total() + smoothing, own[part] / own.total() + smoothing) for part in own}
    return [sum(math.log(share[part][0] / share[part][1]) for part in parts(text)) for text in POOL]


def select(seed: int = 0, **settings):
    made = validate(Selector, {"name": "dsir", "least_words": 0, "buckets": 65_536, **settings})
    return made.select(rows(POOL), Context(seed=seed, queries=rows(QUERIES)))


def test_weights_are_log_ratios_of_counts():
    distinct = {part for text in (*POOL, *QUERIES) for part in parts(text)}
    numbers = {int(hashed([word], 65_536)[0]) for word in distinct}
    assert len(numbers) == len(distinct), "no two share a bucket, so buckets are words"
    chosen = select(share=1.0, smoothing=1e-3)
    weights = slow_weights(1e-3)
    expected = [weights[place] / len(parts(POOL[place])) for place in chosen.indices]
    np.testing.assert_allclose(chosen.scores, expected, rtol=1e-9)


def test_an_example_is_drawn_first_as_often_as_its_weight_says():
    weights = np.exp(slow_weights(0.3))
    first = Counter(select(seed=seed, rows=1, smoothing=0.3).indices[0] for seed in range(3000))
    shares = np.array([first[place] / 3000 for place in range(len(POOL))])
    expected = weights / weights.sum()
    assert expected.min() > 0.01, "every example has a chance that can be seen"
    assert np.all(np.abs(shares - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 3000))


def test_short_texts_are_not_drawn():
    assert set(select(share=1.0, least_words=5).indices) == {0, 1, 3}
    with pytest.raises(DataError) as caught:
        select(least_words=100)
    assert caught.value.code == "E-SELECT-NOTHING"
