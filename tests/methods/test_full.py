"""Full fine-tuning beside adapters."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.engine.book import activate, base_parameters, book_of, detach
from keeptune.methods import Full, Method, Prompt, save_adapter
from tests.tiny_models import tiny_model


def tokens():
    return torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(5))


def test_a_frozen_prompt_stays_active_while_the_base_trains():
    model = tiny_model("llama")
    Prompt(length=3).attach(model, "format", trainable=False)
    with torch.no_grad():  # a pass that records gradients may take another kernel, which rounds otherwise
        with_prompt = model(tokens()).logits
    Full().attach(model, "task")
    activate(model, ["format", "task"])
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, with_prompt)
    model(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None for _, p in base_parameters(model))
    assert all(p.grad is None for p in model.keeptune.parameters())
    detach(model, "format")
    assert model.keeptune.active == ("task",)


def test_merging_keeps_the_trained_weights_as_the_new_base():
    model = tiny_model("llama")
    Full().attach(model)
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    trained = model(tokens()).logits
    Method.find("full")().merge(model, "default")
    assert book_of(model) is None
    assert torch.equal(model(tokens()).logits, trained)


def test_full_is_not_saved_as_an_adapter(tmp_path):
    model = tiny_model("llama")
    Full().attach(model)
    with pytest.raises(PlanError) as caught:
        save_adapter(model, "default", tmp_path)
    assert caught.value.code == "E-ADAPTER-SAVE"
    assert not any(tmp_path.iterdir())
