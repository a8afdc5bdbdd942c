"""Closed forms against tiny models that transformers builds from the same configs."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape

LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32}
PAD = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

MODELS = [
    ("Llama", LLAMA),
    ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    ("Llama", {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("Mistral", {**LLAMA, "head_dim": 12}),
    ("Qwen2", LLAMA),
    ("Qwen2", {**LLAMA, "tie_word_embeddings": True}),
    ("Qwen3", {**LLAMA, "head_dim": 8}),
    ("Qwen3", {**LLAMA, "head_dim": 8, "attention_bias": True}),
    ("Gemma", {**LLAMA, "head_dim": 8}),
    ("Gemma2", {**LLAMA, "head_dim": 8}),
    ("Gemma3Text", {**LLAMA, "head_dim": 8, "attention_bias": True}),
    ("Phi3", LLAMA),
    ("GPT2", GPT2),
    ("GPT2", {**GPT2, "n_inner": 50, "tie_word_embeddings": False}),
    ("GPTNeoX", {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}),
    ("GPTNeoX", {**LLAMA, "attention_bias": False, "tie_word_embeddings": True}),
]


def built(kind: str, settings: dict) -> torch.nn.Module:
    config = getattr(transformers, f"{kind}Config")(**settings, **PAD)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("kind", "settings"), MODELS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(MODELS)])
def test_the_parameter_count_is_the_models_own(kind, settings):
    model = built(kind, settings)
    shape = ModelShape.from_config(model.config.to_dict())
    assert shape.parameters() == sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize(("kind", "settings"), MODELS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(MODELS)])
def test_the_config_json_that_a_model_is_saved_with_gives_the_same_shape(kind, settings, tmp_path):
    config = built(kind, settings).config
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert ModelShape.from_config(saved) == ModelShape.from_config(config.to_dict())


@pytest.mark.parametrize(("kind", "settings"), MODELS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(MODELS)])
def test_the_linear_maps_are_those_of_the_first_block(kind, settings):
    model = built(kind, settings)
    shape = ModelShape.from_config(model.config.to_dict())
    found = []
    biased = 0
    for name, module in model.named_modules():
        if ".0." not in name:
            continue
        if isinstance(module, torch.nn.Linear):
            found.append((module.in_features, module.out_features))
            biased += module.bias is not None
        elif isinstance(module, transformers.pytorch_utils.Conv1D):
            found.append(tuple(module.weight.shape))
            biased += 1
    assert sorted((linear.inputs, linear.outputs) for linear in shape.linears()) == sorted(found)
    assert len(shape.biased) == biased


def test_targets_are_roles_or_module_names():
    llama = ModelShape.from_config({"model_type": "llama", **LLAMA})
    assert llama.linears(["q_proj", "v"]) == [("q", 24, 24), ("v", 24, 12)]
    gpt2 = ModelShape.from_config({"model_type": "gpt2", **GPT2})
    assert gpt2.linears(["c_proj"]) == [("o", 24, 24), ("down", 96, 24)]
    assert [linear.role for linear in gpt2.linears("all")] == ["qkv", "o", "up", "down"]


def test_a_target_that_is_no_linear_map_is_refused_with_the_nearest_name():
    with pytest.raises(PlanError, match="Did you mean 'q_proj'") as caught:
        ModelShape.from_config({"model_type": "llama", **LLAMA}).linears(["q_porj"])
    assert caught.value.code == "E-MODEL-TARGET"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_type": "mixtral", **LLAMA}, "E-MODEL-MOE"),
        ({"model_type": "qwen3_moe", **LLAMA}, "E-MODEL-MOE"),
        ({"model_type": "llama", "num_experts": 8, **LLAMA}, "E-MODEL-MOE"),
        ({"model_type": "bloom", **LLAMA}, "E-MODEL-FAMILY"),
        ({**LLAMA}, "E-MODEL-FAMILY"),
    ],
)
def test_other_families_are_refused_by_name(config, code):
    with pytest.raises(PlanError) as caught:
        ModelShape.from_config(config)
    assert caught.value.code == code


@pytest.mark.parametrize("value", [None, 0, -3, "24", 2.5, True])
def test_a_broken_config_names_its_key(value):
    with pytest.raises(ModelError) as caught:
        ModelShape.from_config({"model_type": "llama", **LLAMA, "hidden_size": value})
    assert caught.value.where["key"] == "hidden_size"


def test_gemma_3_with_a_vision_tower_is_described_by_its_text_config():
    published = {
        "model_type": "gemma3",
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    }
    shape = ModelShape.from_config(published)
    assert (shape.vocabulary, shape.heads, shape.kv_heads, shape.head_width) == (262208, 8, 4, 256)
    assert shape.tied
