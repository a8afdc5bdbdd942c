"""Near duplicates: the estimate against exact sets, and every pair against a search through all pairs."""

from __future__ import annotations

import random
from zlib import crc32

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.data import minhash
from keeptune.data.minhash import NEAR, NearDuplicates, runs_of, signature, signatures, similarity

VOCABULARY = [f"w{number}" for number in range(500)]


def variant(words, changes, draw):
    changed = list(words)
    for place in draw.sample(range(len(words)), changes):
        changed[place] = draw.choice(VOCABULARY)
    return changed


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=8, max_size=30), st.lists(st.sampled_from("abc"), min_size=8, max_size=30)
)
def test_similarity_is_the_jaccard_index_of_sets_of_three_words(one, other):
    def triples(words):
        return {tuple(words[place : place + 3]) for place in range(len(words) - 2)}

    expected = len(triples(one) & triples(other)) / len(triples(one) | triples(other))
    assert similarity(runs_of(one), runs_of(other)) == expected


def test_the_share_of_equal_orders_estimates_the_index():
    draw = random.Random(0)
    errors = []
    for _ in range(200):
        words = draw.choices(VOCABULARY, k=80)
        one, other = runs_of(words), runs_of(variant(words, draw.randint(0, 15), draw))
        errors.append(float((signature(one) == signature(other)).mean()) - similarity(one, other))
    assert abs(np.mean(errors)) < 4 * 0.0625 / 200**0.5
    assert np.std(errors) < 0.0625


def test_pairs_are_those_of_a_search_through_all_pairs():
    draw = random.Random(1)
    texts = [draw.choices(VOCABULARY, k=100) for _ in range(150)]
    texts += [variant(text, 1, draw) for text in texts[:60]] + [variant(text, 30, draw) for text in texts[60:100]]
    sets = [runs_of(text) for text in texts]
    expected = {
        later
        for later in range(len(sets))
        for earlier in range(later)
        if similarity(sets[later], sets[earlier]) >= NEAR
    }
    held = NearDuplicates()
    for number, runs in enumerate(sets):
        held.add(number, runs)
    assert held.pairs().keys() == expected == set(range(150, 210))
    assert all(earlier == later - 150 for later, earlier in held.pairs().items())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abé你", min_size=1, max_size=3), min_size=8, max_size=30))
def test_runs_are_the_hashes_of_three_words_joined_by_blanks(words):
    joined = {" ".join(words[place : place + 3]) for place in range(len(words) - 2)}
    assert runs_of(words).tolist() == sorted({crc32(run.encode()) for run in joined})


def test_a_signature_is_the_least_of_each_order_and_the_same_alone_and_together():
    sets = [runs_of(random.Random(seed).choices(VOCABULARY, k=8 + seed)) for seed in range(40)]
    together = signatures(sets)
    for runs, row in zip(sets, together, strict=True):
        orders = [[(int(factor) * (int(run) + 1) % 2**64) >> 32 for run in runs] for factor in minhash._FACTORS]
        assert row.tolist() == signature(runs).tolist() == [min(order) for order in orders]


def test_pairs_do_not_hang_on_how_many_texts_are_signed_together(monkeypatch):
    draw = random.Random(2)
    texts = [draw.choices(VOCABULARY, k=60) for _ in range(30)]
    texts += [variant(text, 1, draw) for text in texts[:20]]
    found = []
    for at_once in (1, 100, 10**6):
        monkeypatch.setattr(minhash, "RUNS_AT_ONCE", at_once)
        held = NearDuplicates()
        for number, text in enumerate(texts):
            held.add(number, runs_of(text))
        found.append(held.pairs())
    assert len(found[0]) > 10
    assert found[0] == found[1] == found[2]


def test_short_texts_are_never_near():
    held = NearDuplicates()
    held.add(1, runs_of("is my card lost".split()))
    held.add(2, runs_of("is my card late".split()))
    assert held.pairs() == {}
