"""The named places of every family, against the module trees that transformers builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import FAMILIES, family_of
from tests.tiny_models import CONFIGS, tiny_model


@pytest.mark.parametrize("name", CONFIGS)
def test_all_linear_maps_of_the_blocks_have_a_role_and_the_head_has_none(name):
    model = tiny_model(name)
    anatomy = anatomy_of(model)
    head = {path for path, module in model.named_modules() if module is model.get_output_embeddings()}
    linear = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    assert set(anatomy.linear_paths("all")) == set(linear) - head
    assert {anatomy.head} == head
    assert len(anatomy.layers) == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_all_norms_have_a_role(name):
    model = tiny_model(name)
    anatomy = anatomy_of(model)
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    assert {path for layer in anatomy.layers for path in layer.norms.values()} | {anatomy.final_norm} == norms


@pytest.mark.parametrize("name", CONFIGS)
def test_sublayers_run_in_the_order_of_their_names(name):
    """Hooks record the order: norm, attention, norm, feed-forward, within each block."""
    model, order = tiny_model(name), []
    anatomy = anatomy_of(model)
    for layer in anatomy.layers:
        for path in (layer.norms["attention_in"], layer.attention, layer.norms["feed_forward_in"], layer.feed_forward):
            model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: order.append(path))
    for path in (anatomy.embedding, anatomy.final_norm):
        model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: order.append(path))
    model(torch.tensor([[3, 4]]))
    blocks = [
        path
        for layer in anatomy.layers
        for path in (layer.norms["attention_in"], layer.attention, layer.norms["feed_forward_in"], layer.feed_forward)
    ]
    assert order == [anatomy.embedding, *blocks, anatomy.final_norm]
    assert model.get_submodule(anatomy.embedding) is model.get_input_embeddings()


def test_targets_go_by_role_by_name_and_by_path():
    anatomy = anatomy_of(tiny_model("llama"))
    queries = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    for target in ("q", "q_proj", "self_attn.q_proj"):
        assert anatomy.linear_paths([target]) == queries
    assert anatomy.linear_paths([queries[1]]) == queries[1:]
    assert anatomy.linear_paths(["v", "q", "q_proj"])[:2] == [queries[0], queries[0].replace("q_proj", "v_proj")]
    assert len(anatomy.linear_paths()) == 14


def test_one_name_can_mean_two_maps():
    anatomy = anatomy_of(tiny_model("gpt2"))
    assert anatomy.linear_paths(["c_proj"])[:2] == ["transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj"]
    assert anatomy.roles == ["qkv", "o", "up", "down"]


@pytest.mark.parametrize(("name", "target", "hint"), [("llama", "q_prj", "q_proj"), ("phi3", "q", "qkv")])
def test_a_target_that_matches_nothing_is_refused_with_what_there_is(name, target, hint):
    with pytest.raises(PlanError, match=hint) as caught:
        anatomy_of(tiny_model(name)).linear_paths([target])
    assert caught.value.code == "E-MODEL-TARGET"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_type": "bloom"}, "E-MODEL-FAMILY"),
        ({"model_type": None}, "E-MODEL-FAMILY"),
        ({}, "E-MODEL-FAMILY"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "E-MODEL-MOE"),
        ({"model_type": "qwen3_moe"}, "E-MODEL-MOE"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "E-MODEL-ATTENTION"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "E-MODEL-ATTENTION"),
    ],
)
def test_what_is_not_verified_is_refused_by_name(config, code):
    with pytest.raises(PlanError) as caught:
        family_of(config)
    assert caught.value.code == code
    assert code != "E-MODEL-FAMILY" or all(name in str(caught.value) for name in FAMILIES)


def test_a_mixture_of_experts_has_no_anatomy():
    config = AutoConfig.for_model(
        "mixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=20, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(PlanError, match="mixture of experts"):
        anatomy_of(AutoModelForCausalLM.from_config(config))
