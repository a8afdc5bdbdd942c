"""DoRA against PEFT and against its formula."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.methods import DoRA, LoRA, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}


def randomise(model):
    """Moves A, B and m away from their start, alike in both libraries' names."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.3)
    return model


def peft_model(family, **settings):
    config = LoraConfig(
        target_modules=TARGETS[family],
        fan_in_fan_out=family == "gpt2",
        use_dora=True,
        task_type="CAUSAL_LM",
        **settings,
    )
    return randomise(get_peft_model(tiny_model(family), config).eval())


@pytest.mark.parametrize("family", TARGETS)
def test_a_folder_of_peft_loads_with_its_logits_and_its_gradients(tmp_path, family):
    theirs = peft_model(family, r=4, lora_alpha=12)
    theirs.save_pretrained(tmp_path)
    ours = tiny_model(family)
    load_adapter(ours, tmp_path, trainable=True)
    assert isinstance(ours.keeptune.adapter("default").methods[0], DoRA)
    assert_close(ours(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)
    ours(TOKENS, labels=TOKENS).loss.backward()
    theirs(TOKENS, labels=TOKENS).loss.backward()
    found = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    for place, delta, _ in ours.keeptune.adapter("default").placed[0]:
        path = f"base_model.model.{place.path}"
        assert_close(delta.lora_magnitude_vector.grad, found[f"{path}.lora_magnitude_vector.default.weight"], **CLOSE)
        assert_close(delta.direction.lora_A.grad, found[f"{path}.lora_A.default.weight"], **CLOSE)
        assert_close(delta.direction.lora_B.grad, found[f"{path}.lora_B.default.weight"], **CLOSE)


@pytest.mark.parametrize("family", TARGETS)
def test_our_folder_loads_in_peft_with_our_logits(tmp_path, family):
    ours = tiny_model(family)
    DoRA(rank=4, alpha=12).attach(ours, "ana")
    randomise(ours)
    save_adapter(ours, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert_close(theirs(TOKENS).logits, ours(TOKENS).logits, **CLOSE)


def test_the_weight_is_a_length_times_a_direction_and_the_bias_is_not_scaled():
    family = "llama, biases, one key head, tied"
    model, by_hand = tiny_model(family), tiny_model(family)
    path = "model.layers.1.self_attn.q_proj"
    with torch.no_grad():
        for each in (model, by_hand):
            each.get_submodule(path).bias.fill_(0.7)
    DoRA(rank=4, alpha=6, targets=[path]).attach(model)
    randomise(model)
    kept = {key.removeprefix(f"{path}."): t for key, t in model.keeptune.adapter("default").tensors().items()}
    weight = by_hand.get_submodule(path).weight
    with torch.no_grad():
        direction = weight + 6 / 4 * kept["lora_B"] @ kept["lora_A"]
        weight.copy_(
            kept["lora_magnitude_vector"][:, None] * direction / direction.square().sum(1, keepdim=True).sqrt()
        )
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)
    assert kept["lora_magnitude_vector"].shape == (32,)


def test_the_length_starts_as_that_of_the_frozen_rows():
    model = tiny_model("gpt2")
    DoRA(targets=["qkv"]).attach(model)
    kept = model.keeptune.adapter("default").tensors()["transformer.h.0.attn.c_attn.lora_magnitude_vector"]
    assert_close(kept, model.transformer.h[0].attn.c_attn.weight.norm(dim=0))


def test_merging_a_lora_below_it_is_refused_because_dora_reads_what_stands_there():
    model = tiny_model("llama")
    LoRA(rank=2).attach(model, "below")
    DoRA(rank=2).attach(model, "above")
    with pytest.raises(PlanError) as caught:
        LoRA().merge(model, "below")
    assert caught.value.code == "E-ADAPTER-MERGE"
