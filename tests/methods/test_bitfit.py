"""BitFit against training the biases themselves, and its merge against a stock checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.methods import BitFit, merge
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def steps(model, parameters, count=4):
    optimizer = torch.optim.AdamW(parameters, lr=0.03, weight_decay=0.0)
    losses = []
    for _ in range(count):
        loss = model(TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def shaken(family, method):
    model = tiny_model(family)
    method.attach(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "llama, biases, one key head, tied"])
def test_each_step_is_that_of_all_biases_trained_in_place(family):
    reference = tiny_model(family).double()
    for name, parameter in reference.named_parameters():
        parameter.requires_grad_(name.endswith(".bias"))
    biases = [p for p in reference.parameters() if p.requires_grad]
    expected = steps(reference, biases)
    model = tiny_model(family).double()
    BitFit().attach(model)
    model.keeptune.double()
    assert sum(p.numel() for p in model.keeptune.parameters()) == sum(p.numel() for p in biases)
    # Without rotary positions the keys' gradient is rounding, which AdamW blows up to full steps without effect.
    assert steps(model, list(model.keeptune.parameters())) == pytest.approx(expected, rel=1e-6)
    assert_close(model(TOKENS).logits, reference(TOKENS).logits, **CLOSE)


def test_a_bias_of_the_keys_has_no_effect_without_rotary_positions():
    model = tiny_model("gpt2").double()
    BitFit(targets=["qkv"]).attach(model)
    model.keeptune.double()
    before = model(TOKENS).logits
    model(TOKENS, labels=TOKENS).loss.backward()
    (first, *_) = (p.grad.view(3, -1).abs().amax(1) for p in model.keeptune.parameters())
    query, key, value = first.tolist()
    assert key < 1e-9
    assert min(query, value) > 1e-4
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.view(3, -1)[1] = 1.0
    assert_close(model(TOKENS).logits, before, **CLOSE)


@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", "all"), ("llama", ["q", "up"]), ("llama", ["v"]), ("qwen3", ["v"]), ("gemma3_text", ["k", "o"])],
)
def test_merged_new_biases_make_a_stock_checkpoint(tmp_path, family, targets):
    model = shaken(family, BitFit(targets=targets, add_missing=True))
    logits = model(TOKENS).logits
    merge(model, "default")
    assert_close(model(TOKENS).logits, logits, **CLOSE)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_bias"] is True
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32).eval()
    assert_close(stock(TOKENS).logits, logits, **CLOSE)
    assert (stock(TOKENS).logits - tiny_model(family)(TOKENS).logits).abs().max() > 0.1


@pytest.mark.parametrize(("family", "targets"), [("mistral, no window", ["q"]), ("qwen3", ["up"]), ("qwen2", ["o"])])
def test_new_biases_that_no_config_can_name_are_not_merged(family, targets):
    model = shaken(family, BitFit(targets=targets, add_missing=True))
    logits, names = model(TOKENS).logits, list(model.state_dict())
    with pytest.raises(PlanError, match=targets[0]) as caught:
        merge(model, "default")
    assert caught.value.code == "E-ADAPTER-MERGE"
    assert list(model.state_dict()) == names
    assert torch.equal(model(TOKENS).logits, logits)


@pytest.mark.parametrize(
    ("family", "targets", "said"),
    [
        ("llama", "all", "no biases"),
        ("qwen2", ["o", "q"], "no bias in: o. Biases that exist: q, k, v."),
        ("llama", ["attention_in"], "attention_in"),
        ("gpt2", ["q"], "no role"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(family, targets, said):
    model, method = tiny_model(family), BitFit(targets=targets)
    shape = ModelShape.from_config(model.config.to_dict())
    for refused in (lambda: method.attach(model), lambda: method.cost(shape)):
        with pytest.raises(PlanError) as caught:
            refused()
        assert said in str(caught.value)
    assert not hasattr(model, "keeptune")


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {}),
        ("gpt_neox", {"targets": ["up", "final_norm"]}),
        ("qwen2", {}),
        ("phi3", {"add_missing": True}),
        ("gemma2", {"targets": ["gate", "o"], "add_missing": True}),
    ],
)
def test_the_count_follows_the_settings(family, settings):
    model, method = tiny_model(family), BitFit(**settings)
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
