"""The bytes that a training step holds per token, against a count of the tensors that autograd really keeps."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.methods import Method
from keeptune.planning.activations import kept_bytes
from tests.contracts.test_methods import NAMES, small
from tests.planning.saved_tensors import LENGTH, kept_per_token, let_gradients_flow
from tests.tiny_models import tiny_model

# What these hold depends on the type, or on the rows; the planner takes them as training in place.
UNCOUNTED = ["peft", "spottune"]
DECODERS = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox"]


def decoder(name, dtype=torch.bfloat16):
    model = tiny_model(name).to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    let_gradients_flow(model)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", DECODERS)
def test_a_frozen_base_holds_what_the_formula_says(name, dtype):
    model = decoder(name, dtype)
    shape = ModelShape.from_config(model.config.to_dict())
    predicted = kept_bytes(shape, dtype.itemsize, LENGTH)
    assert predicted == pytest.approx(kept_per_token(model), rel=0.07)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNCOUNTED])
def test_a_method_holds_what_its_cost_says(name):
    model, method = decoder("llama"), small(name)
    shape = ModelShape.from_config(model.config.to_dict())
    try:
        method.attach(model)
    except PlanError:
        method = Method.find(name)(**{"add_missing": True})
        method.attach(model)
    cost = method.cost(shape)
    assert cost.held is not None, "count it, or name it among the uncounted"
    predicted = kept_bytes(shape, 2, LENGTH, cost.held) + 2 * cost.held_per_row / LENGTH
    predicted *= 1 + cost.added(1, 1) / LENGTH
    assert predicted == pytest.approx(kept_per_token(model), rel=0.1)
    assert model.body_path.startswith("fused" if cost.held.fused is not None else "modules")


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_was_not_counted_is_not_claimed(name):
    shape = ModelShape.from_config(decoder("llama").config.to_dict())
    assert small(name).cost(shape).held is None
