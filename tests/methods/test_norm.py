"""Norm tuning against training the norms themselves."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.shape import ModelShape
from keeptune.methods import Norm, merge
from tests.tiny_models import VOCABULARY, tiny_model

TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
NORMS = {
    "llama": ("layernorm", "model.norm"),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gemma3_text": ("layernorm", "model.norm"),
    "gpt_neox": ("layernorm", "final_layer_norm"),
}


def steps(model, parameters, count=4):
    """Losses of a few steps of AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=0.03, weight_decay=0.0)
    losses = []
    for _ in range(count):
        loss = model(TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def in_place(family, biases=True):
    """The model itself, everything but its norms over the width frozen."""
    model = tiny_model(family).double()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        if module.endswith(NORMS[family]) and (biases or name.endswith("weight")):
            parameter.requires_grad_(True)
    return model, [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("family", NORMS)
def test_each_step_is_that_of_the_norms_trained_in_place(family, biases):
    reference, parameters = in_place(family, biases)
    expected = steps(reference, parameters)
    model = tiny_model(family).double()
    Norm(biases=biases).attach(model)
    model.keeptune.double()
    assert steps(model, list(model.keeptune.parameters())) == pytest.approx(expected, rel=1e-6)
    assert expected[-1] < expected[0] - 0.1
    logits = model(TOKENS).logits
    assert_close(logits, reference(TOKENS).logits, rtol=1e-5, atol=1e-5)
    merge(model, "default")
    assert_close(model(TOKENS).logits, logits, rtol=1e-5, atol=1e-5)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("settings", [{}, {"biases": False}, {"final": False}, {"layers": [1]}])
@pytest.mark.parametrize("family", NORMS)
def test_the_count_follows_the_settings(family, settings):
    model, method = tiny_model(family), Norm(**settings)
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted


def test_the_count_of_a_7b_llama_is_two_norms_per_block_and_one():
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    }  # fmt: skip
    assert Norm().cost(ModelShape.from_config(config)).trainable_parameters == 65 * 4096
