"""LoRA against PEFT and against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.rows import off
from keeptune.methods import LoRA, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FAMILIES = ["llama", "gpt2", "phi3", "gemma2"]
ALL_LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gemma2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}


def tokens():
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def randomise(module):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def peft_model(family, **settings):
    config = LoraConfig(
        target_modules=ALL_LINEAR[family], fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(tiny_model(family), config).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_peft_loads_with_its_logits(tmp_path, family):
    theirs = peft_model(family, r=4, lora_alpha=12)
    theirs.save_pretrained(tmp_path)
    ours = tiny_model(family)
    load_adapter(ours, tmp_path, "ana")
    assert_close(ours(tokens()).logits, theirs(tokens()).logits, **CLOSE)
    assert (ours(tokens()).logits - tiny_model(family)(tokens()).logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_our_folder_loads_in_peft_with_our_logits(tmp_path, family):
    ours = tiny_model(family)
    LoRA(rank=4, alpha=12).attach(ours, "ana")
    randomise(ours)
    save_adapter(ours, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert_close(theirs(tokens()).logits, ours(tokens()).logits, **CLOSE)


def test_patterns_and_the_square_root_scale_mean_what_peft_means(tmp_path):
    settings = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5, "layers.1.mlp.up_proj": 7}}
    theirs = peft_model("llama", r=4, lora_alpha=12, use_rslora=True, **settings)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tiny_model("llama")
    load_adapter(ours, tmp_path / "theirs", "ana")
    assert_close(ours(tokens()).logits, theirs(tokens()).logits, **CLOSE)
    method = ours.keeptune.adapter("ana").methods[0]
    trained = sum(p.numel() for p in ours.keeptune.parameters())
    assert method.cost(ModelShape.from_config(ours.config.to_dict())).trainable_parameters == trained
    save_adapter(ours, "ana", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "ours").eval()
    assert_close(again(tokens()).logits, theirs(tokens()).logits, **CLOSE)


def test_merging_equals_pefts_merge():
    theirs = peft_model("gpt2", r=4, lora_alpha=8)
    ours = tiny_model("gpt2")
    LoRA(rank=4, alpha=8).attach(ours, "ana")
    randomise(ours)
    LoRA().merge(ours, "ana")
    merged = theirs.merge_and_unload()
    for key, parameter in ours.named_parameters():
        assert_close(parameter, merged.get_parameter(key), **CLOSE)


def test_merging_in_bfloat16_rounds_once():
    model = tiny_model("llama").to(torch.bfloat16)
    weight = model.model.layers[0].self_attn.q_proj.weight
    before = weight.detach().float()
    LoRA(rank=4, targets=["q"]).attach(model, "ana")
    randomise(model)
    tensors = model.keeptune.adapter("ana").tensors()
    a, b = (tensors[f"model.layers.0.self_attn.q_proj.lora_{side}"] for side in "AB")
    LoRA().merge(model, "ana")
    assert torch.equal(weight, (before + 2.0 * (b @ a)).to(torch.bfloat16))


def test_a_starts_uniform_within_one_over_the_root_of_its_inputs():
    model = tiny_model("llama", hidden_size=256, intermediate_size=256)
    LoRA(rank=64, targets=["q"]).attach(model)
    for key, tensor in model.keeptune.adapter("default").tensors().items():
        if key.endswith("lora_A"):
            bound = 1 / math.sqrt(256)
            assert 0.99 * bound < tensor.abs().max() <= bound
            assert abs(tensor.std().item() - bound / math.sqrt(3)) < 0.01 * bound


def test_a_place_starts_alike_whatever_else_is_adapted():
    starts = []
    for targets in (["q"], "all"):
        model = tiny_model("llama")
        LoRA(targets=targets).attach(model, seed=7)
        starts.append(model.keeptune.adapter("default").tensors()["model.layers.1.self_attn.q_proj.lora_A"])
    assert torch.equal(*starts)


@pytest.mark.parametrize(
    ("layers", "width", "feed_forward", "settings", "count"),
    [
        (32, 4096, 11008, {"rank": 8, "targets": ["q", "v"]}, 4_194_304),
        (32, 4096, 11008, {"rank": 16}, 39_976_960),
    ],
)
def test_the_count_of_a_7b_llama_is_the_published_one(layers, width, feed_forward, settings, count):
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": width, "intermediate_size": feed_forward,
        "num_hidden_layers": layers, "num_attention_heads": 32,
    }  # fmt: skip
    assert LoRA(**settings).cost(ModelShape.from_config(config)).trainable_parameters == count


@pytest.mark.parametrize("targets", [["mlp.c_proj"], ["transformer.h.1.attn.c_proj", "up"]])
def test_the_count_follows_targets_by_path(targets):
    model, method = tiny_model("gpt2"), LoRA(rank=3, targets=targets)
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted


def test_a_target_that_is_nowhere_is_refused_with_what_there_is():
    with pytest.raises(PlanError, match="q_prog") as caught:
        LoRA(targets=["q_prog"]).attach(tiny_model("llama"))
    assert "Did you mean 'q_proj'" in caught.value.fix
    shape = ModelShape.from_config(tiny_model("llama").config.to_dict())
    with pytest.raises(PlanError, match="q_prog"):
        LoRA(targets=["q_prog"]).cost(shape)


def test_a_refused_attach_leaves_no_trace():
    model = tiny_model("llama")
    with pytest.raises(PlanError):
        LoRA(targets=["embed_tokens"]).attach(model)
    assert not hasattr(model, "keeptune")
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_acts_in_training_only():
    model = tiny_model("llama")
    LoRA(rank=4, dropout=0.5).attach(model)
    randomise(model)
    assert torch.equal(model(tokens()).logits, model(tokens()).logits)
    model.train()
    assert not torch.equal(model(tokens()).logits, model(tokens()).logits)
    with off(model):
        assert torch.equal(model(tokens()).logits, tiny_model("llama")(tokens()).logits)


def test_an_adapter_of_another_base_is_refused_unless_forced(tmp_path):
    model = tiny_model("llama")
    LoRA(rank=4).attach(model, "ana")
    save_adapter(model, "ana", tmp_path)
    other = tiny_model("llama", seed=1)
    with pytest.raises(ModelError) as caught:
        load_adapter(other, tmp_path)
    assert caught.value.code == "E-ADAPTER-BASE"
    assert not hasattr(other, "keeptune")
    load_adapter(other, tmp_path, force=True)
    assert hasattr(other, "keeptune")


def test_an_adapter_of_another_size_is_refused_by_name(tmp_path):
    model = tiny_model("llama", intermediate_size=40)
    LoRA(rank=4).attach(model, "ana")
    save_adapter(model, "ana", tmp_path)
    with pytest.raises(ModelError, match="down_proj") as caught:
        load_adapter(tiny_model("llama"), tmp_path, force=True)
    assert caught.value.code == "E-ADAPTER-WEIGHTS"


def test_a_file_cannot_name_a_module_to_import(tmp_path):
    (tmp_path / "adapter.json").write_text('{"schema": 1, "settings": {"name": "antigravity.x"}, "base": {}}')
    (tmp_path / "adapter.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError) as caught:
        load_adapter(tiny_model("llama"), tmp_path)
    assert caught.value.code == "E-ADAPTER-CONFIG"
