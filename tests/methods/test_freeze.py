"""Partial fine-tuning: which parameters train, by a list written by hand."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.shape import ModelShape
from keeptune.core.spec import validate
from keeptune.methods import Freeze, LoRA, Method, merge
from tests.tiny_models import tiny_model


def trained(family, **settings):
    model = tiny_model(family)
    method = Freeze(**settings)
    method.attach(model)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
    return names


def inside(family, *prefixes):
    return {name for name, _ in tiny_model(family).named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("family", "settings", "prefixes"),
    [
        ("llama", {}, ("model.layers.1.", "model.norm", "lm_head")),
        ("llama", {"bottom": 0}, ("model.layers.", "model.norm", "lm_head")),
        ("llama", {"bottom": 2, "head": False}, ("model.norm",)),
        ("llama", {"top": 0}, ("model.norm", "lm_head")),
        ("llama", {"top": 1, "embeddings": True}, ("model.layers.1.", "model.norm", "lm_head", "model.embed")),
        ("gpt2", {"top": 1}, ("transformer.h.1.", "transformer.ln_f")),
        ("gpt2", {"bottom": 0, "embeddings": True}, ("transformer.",)),
        ("gpt_neox", {"bottom": 1}, ("gpt_neox.layers.1.", "gpt_neox.final_layer_norm", "embed_out", "lm_head")),
        ("gemma3_text", {"top": 2}, ("model.layers.", "model.norm")),
        ("vit", {"blocks": (0, 0), "embeddings": True}, ("embeddings.", "layers.0.")),
        ("vit", {"top": 1}, ("layers.1.", "layernorm.")),
        ("bert", {"top": 0, "embeddings": True}, ("bert.embeddings.",)),
        ("deberta-v2", {"top": 0, "embeddings": True}, ("deberta.embeddings.",)),
        ("modernbert", {"top": 0, "embeddings": True}, ("model.embeddings.", "model.final_norm")),
    ],
)
def test_what_trains_is_what_the_settings_say(family, settings, prefixes):
    assert trained(family, **settings) == inside(family, *prefixes)


@pytest.mark.parametrize("settings", [{"head": True}, {"head": False, "embeddings": True}])
def test_a_tied_head_is_not_torn_from_its_embedding(settings):
    model = tiny_model("gpt2")
    with pytest.raises(PlanError) as caught:
        Freeze(**settings).attach(model)
    assert caught.value.code == "E-METHOD-TIED"
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "key"), [("t5", "embeddings"), ("bart", "embeddings"), ("vit", "head"), ("bert", "head")]
)
def test_an_end_that_a_model_has_not_or_twice_is_refused_by_name(family, key):
    model = tiny_model(family)
    for attempt in (
        Freeze(**{key: True}).attach,
        lambda m: Freeze(**{key: True}).cost(ModelShape.from_config(m.config.to_dict())),
    ):
        with pytest.raises(PlanError) as caught:
            attempt(model)
        assert caught.value.code == "E-METHOD-FAMILY"
        assert caught.value.where["key"] == key


@pytest.mark.parametrize("settings", [{"bottom": 3}, {"top": 3}])
def test_more_blocks_than_there_are_is_refused(settings):
    with pytest.raises(PlanError) as caught:
        Freeze(**settings).attach(tiny_model("llama"))
    assert caught.value.code == "E-METHOD-LAYER"
    with pytest.raises(RecipeError, match="not both"):
        validate(Method, {"name": "freeze", "bottom": 1, "top": 1})


def test_an_adapter_trains_beside_the_upper_blocks_and_merging_returns_the_base_to_the_user():
    model = tiny_model("llama")
    LoRA(rank=2, targets=["q"]).attach(model, "lora")
    Freeze(top=1).attach(model, "upper")
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in names if name.startswith("keeptune.")}
    assert names - own == inside("llama", "model.layers.1.", "model.norm", "lm_head")
    assert len(own) == 4
    merge(model, "upper")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == own
    merge(model, "lora")
    assert all(p.requires_grad for p in model.parameters())
    assert torch.isfinite(model(torch.tensor([[3, 4]])).logits).all()


@pytest.mark.parametrize(("blocks", "norm"), [((0, 0), False), ((1, 1), True), ((0, 1), True)])
def test_a_range_of_blocks_trains_and_the_ends_follow_the_last_one(blocks, norm):
    model = tiny_model("llama")
    names = Freeze(blocks=blocks).trained(model)
    found = {int(name.split(".")[2]) for name in names if ".layers." in name}
    assert found == set(range(blocks[0], blocks[1] + 1))
    assert ("model.norm.weight" in names) == norm == ("lm_head.weight" in names)
    shape = ModelShape.from_config(model.config.to_dict())
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)
    assert Freeze(blocks=blocks).cost(shape).trainable_parameters == count


def test_a_range_beyond_the_model_is_refused():
    with pytest.raises(PlanError, match="`blocks` is 2, but the model has 2 blocks"):
        Freeze(blocks=(0, 2)).trained(tiny_model("llama"))
