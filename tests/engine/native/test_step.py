"""A whole backward pass with the kernels and without: each of them runs, and gradients come no farther from exact."""

from __future__ import annotations

import copy

import pytest
import torch

from keeptune.engine import causal_rows
from keeptune.engine.batch import pack
from keeptune.engine.fused import body, linear_group
from keeptune.engine.head import head_of
from keeptune.engine.native import kernels as native
from keeptune.engine.packed import packed_hidden
from keeptune.losses.next_token import next_token
from tests.engine.fused.test_body import adapted
from tests.engine.test_packed import LENGTHS, rows_of

pytestmark = pytest.mark.skipif(native.compiled(torch.bfloat16) is None, reason="no C compiler here")
NAMES = ("norm", "norm_back", "gated", "gated_back", "rotate", "attention", "attention_back", "next_token")
DECIDING = (body, causal_rows, linear_group)
"""Where it is asked whether a pass trains."""


def model_of(family):
    return adapted(family, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16)


def gradients(model, seed=0):
    model.zero_grad()
    batch = pack(rows_of(LENGTHS, seed))
    hidden = packed_hidden(model, batch)
    assert model.body_path == "fused"
    next_token(hidden, batch.targets, head_of(model)).backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("dtype", native.READ, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gradients_with_the_kernels_are_no_farther_from_those_in_float64(family, dtype, monkeypatch):
    """From equal values forward, which round most; the error of twelve batches is taken together.

    In float32 nothing is rounded on the way, neither here nor there, and which is nearer is chance.
    """
    for place in DECIDING:
        monkeypatch.setattr(place, "learns", lambda: False)
    model = model_of(family).to(dtype)
    exact_one = copy.deepcopy(model).double()

    exact = torch.stack([gradients(exact_one, seed) for seed in range(12)])

    def errors():
        return torch.stack([gradients(model, seed) for seed in range(12)]) - exact

    ours = errors()
    monkeypatch.setattr(native, "compiled", lambda _: None)
    theirs = errors()
    assert not torch.equal(ours, theirs), "the kernels did not run"
    assert ours.norm() <= max(1.02 * theirs.norm(), 1e-5 * exact.norm())


def test_values_of_the_kernels_leave_gradients_in_bfloat16_as_near_to_those_in_float64(monkeypatch):
    """Values that are rounded otherwise make gradients nearer or farther by chance: over 120 batches, none is shown."""
    models = [model_of(family).to(torch.bfloat16) for family in ("llama", "qwen3")]
    batches = [(model, copy.deepcopy(model).double(), seed) for model in models for seed in range(60)]
    exact = [gradients(wide, seed) for _, wide, seed in batches]

    def errors():
        pairs = zip(batches, exact, strict=True)
        return torch.stack([(gradients(model, seed) - own).norm() for (model, _, seed), own in pairs])

    ours = errors()
    for place in DECIDING:
        monkeypatch.setattr(place, "learns", lambda: False)
    ratios = (ours / errors()).log()
    assert (ratios != 0).all(), "the kernels ran"
    assert ratios.mean() <= 2 * ratios.std() / len(ratios) ** 0.5


@pytest.mark.parametrize("dtype", native.READ, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_each_kernel_runs_as_often_as_the_step_needs_it(family, dtype, monkeypatch):
    calls = dict.fromkeys(NAMES, 0)

    def counted(name, real):
        def call(*given, **named):
            calls[name] += 1
            return real(*given, **named)

        return call

    for name in NAMES:
        monkeypatch.setattr(native.Kernels, name, counted(name, getattr(native.Kernels, name)))
    model = model_of(family).to(dtype)
    gradients(model)
    layers, more = model.config.num_hidden_layers, 2 if family == "qwen3" else 0
    # Queries and keys turn forward and back; the lowest norm, with nothing below it that learns, gives its value again.
    assert calls == {
        "norm": (2 + more) * layers + 1,
        "norm_back": (2 + more) * layers + 1,
        "gated": layers,
        "gated_back": layers,
        "attention": layers,
        "rotate": 4 * layers,
        "attention_back": layers,
        "next_token": 1,
    }
