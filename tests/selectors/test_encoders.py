"""Encoders against transformers' own forward, and against the formula of TF-IDF cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from keeptune.core.errors import DataError, PlanError
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.data.encode import encode
from keeptune.models.tensor_store import TensorStore
from keeptune.selectors import Context
from keeptune.selectors.encoders import Encoder


def vectors(settings, rows, **context):
    return validate(Encoder, settings).encode(rows, Context(**context))


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_a_vector_is_the_pooled_last_hidden_state_of_the_whole_text(pocket, talks, pooling):
    found = vectors(pooling, talks, model=pocket)
    for row, vector in zip(talks, found, strict=True):
        ids = torch.tensor([list(encode(row, pocket.tokenizer).tokens)])
        with torch.no_grad():
            states = pocket.model(ids, output_hidden_states=True).hidden_states[-1][0].double().numpy()
        weights = np.ones(len(states)) if pooling == "mean" else np.arange(1, len(states) + 1)
        mean = (weights[:, None] * states).sum(0) / weights.sum()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-5)


def test_a_vector_does_not_depend_on_its_company_and_a_stored_one_is_the_same(pocket, talks, tmp_path):
    whole = vectors("mean", talks, model=pocket)
    np.testing.assert_allclose(vectors("mean", talks[1:3], model=pocket), whole[1:3], atol=1e-5)
    store = TensorStore(tmp_path)
    first = vectors("mean", talks, model=pocket, store=store)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(vectors("mean", talks, model=pocket, store=store), first)
    vectors("weighted", talks, model=pocket, store=store)
    vectors("mean", talks[::-1], model=pocket, store=store)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_text_beyond_the_context_is_cut_and_a_missing_model_is_named(pocket):
    long = [Example("long", text="word " * 5000)]
    assert np.isfinite(vectors("mean", long, model=pocket)).all()
    with pytest.raises(PlanError) as caught:
        vectors("mean", long)
    assert caught.value.code == "E-SELECT-MODEL"


TEXTS = ("the cat sat on the mat", "the dog sat", "a cat and a dog", "the the the mat", "on and on, sat dog")


def slow_tfidf(texts, least):
    """Cell by cell, as the textbook says it."""
    split = [text.replace(",", "").split() for text in texts]
    words = sorted({word for text in split for word in text})
    words = [word for word in words if sum(word in text for text in split) >= least]
    cells = np.zeros((len(texts), len(words)))
    for i, text in enumerate(split):
        for j, word in enumerate(words):
            spread = sum(word in other for other in split)
            cells[i, j] = text.count(word) * (math.log((1 + len(texts)) / (1 + spread)) + 1)
    return cells / np.linalg.norm(cells, axis=1, keepdims=True)


@pytest.mark.parametrize("least", [1, 2])
def test_cosines_of_all_dimensions_are_those_of_tfidf(least):
    rows = [Example(str(i), text=text) for i, text in enumerate(TEXTS)]
    found = vectors({"name": "tfidf", "least": least}, rows)
    expected = slow_tfidf(TEXTS, least)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)


def test_fewer_dimensions_keep_the_largest_singular_directions():
    rows = [Example(str(i), text=text) for i, text in enumerate(TEXTS)]
    found = vectors({"name": "tfidf", "least": 1, "width": 2}, rows)
    left, sizes, _ = np.linalg.svd(slow_tfidf(TEXTS, 1), full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_texts_without_a_common_word_are_refused():
    with pytest.raises(DataError) as caught:
        vectors("tfidf", [Example("1", text="one"), Example("2", text="two")])
    assert caught.value.code == "E-SELECT-WORDS"
