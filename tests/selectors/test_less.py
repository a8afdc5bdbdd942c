"""Gradient features against autograd, one row and one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from keeptune.core.spec import validate
from keeptune.data.encode import Encoded, encode
from keeptune.engine.gradient_features import _signs, gradient_features
from keeptune.engine.named_generator import named_generator
from keeptune.models.anatomy import anatomy_of
from keeptune.selectors import Context, Selector
from tests.selectors.conftest import conversation
from tests.tiny_models import tiny_model


def encoded(seed: int = 0) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate((9, 5, 12, 5)):
        tokens = tuple(map(int, generator.integers(3, 60, size=length)))
        rows.append(Encoded(str(number), "", tokens, tuple(place >= 3 for place in range(length))))
    return [*rows, Encoded("nothing", "", (5, 6, 7), (False,) * 3)]


def slow(model, row: Encoded, width: int, seed: int) -> torch.Tensor:
    """The row alone through transformers, whole gradients of the weights, then the projection."""
    model.zero_grad()
    ids = torch.tensor([row.tokens])
    labels = torch.tensor([row.labels])
    model(ids, labels=labels).loss.backward()
    parts = []
    for path in anatomy_of(model).linear_paths():
        module = model.get_submodule(path)
        gradient = module.weight.grad if isinstance(module, torch.nn.Linear) else module.weight.grad.T
        generator = named_generator(seed, path)
        inner, outer = (_signs(size, width, generator) for size in (gradient.shape[1], gradient.shape[0]))
        parts.append((outer.T @ gradient @ inner).flatten())
    model.zero_grad()
    return torch.cat(parts)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_feature_is_the_projected_gradient_of_the_row_alone(family):
    model = tiny_model(family).float().eval()
    rows = encoded()
    found = gradient_features(model, rows, width=3, seed=4)
    for row, feature in zip(rows[:-1], found, strict=False):
        torch.testing.assert_close(feature, slow(model, row, 3, 4), rtol=1e-3, atol=1e-5)
    assert not found[-1].any(), "a row that teaches nothing has no gradient"
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_products_of_features_are_those_of_gradients_on_average():
    model = tiny_model("llama").float().eval()
    rows = encoded()[:2]
    paths, gradients = anatomy_of(model).linear_paths(), []
    for row in rows:
        model.zero_grad()
        model(torch.tensor([row.tokens]), labels=torch.tensor([row.labels])).loss.backward()
        gradients.append(torch.cat([model.get_submodule(path).weight.grad.flatten() for path in paths]))
    products = []
    for seed in range(60):
        features = gradient_features(model, rows, width=8, seed=seed)
        products.append([float(features[0] @ features[1]), float(features[0] @ features[0])])
    means, errors = np.mean(products, axis=0), np.std(products, axis=0) / 60**0.5
    exact = [float(gradients[0] @ gradients[1]), float(gradients[0] @ gradients[0])]
    assert np.all(np.abs(means - exact) < 4.5 * errors)


def test_a_query_chooses_itself_and_tasks_are_compared_apart(pocket, talks):
    queries = [conversation("q1", *_said(talks[3]), source="dogs"), conversation("q2", *_said(talks[0]), source="sums")]
    context = Context(model=pocket, queries=queries)
    chosen = validate(Selector, {"name": "less", "rows": 2, "width": 4}).select(talks, context)
    assert set(chosen.indices) == {0, 3}
    np.testing.assert_allclose(chosen.scores, 1, atol=1e-4)
    one_task = [*(conversation(q.id, *_said(q), source="both") for q in queries)]
    mixed = validate(Selector, {"name": "less", "share": 1.0, "width": 4}).select(
        talks, Context(model=pocket, queries=one_task)
    )
    rows = [encode(row, pocket.tokenizer) for row in (*talks, *one_task)]
    features = gradient_features(pocket.model, rows, width=4)
    unit = features / features.norm(dim=1, keepdim=True)
    expected = (unit[:5] @ unit[5:].T).mean(dim=1).numpy()
    np.testing.assert_allclose(mixed.scores, np.sort(expected)[::-1], atol=1e-4)


def _said(row) -> tuple[str, str]:
    return row.messages[0].content, row.messages[1].content
