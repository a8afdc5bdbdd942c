"""The named places of encoders, encoder-decoders and ViT, against the module trees that transformers builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import family_of, linear_places
from tests.tiny_models import CONFIGS, ENCODERS, IMAGES, OTHERS, SEQ2SEQ, inputs_of, tiny_model


@pytest.mark.parametrize("name", OTHERS)
def test_all_linear_maps_of_the_blocks_have_a_role(name):
    model = tiny_model(name)
    anatomy = anatomy_of(model)
    blocks = tuple(f"{layer.block}." for layer in anatomy.layers)
    linear = {path for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    assert set(anatomy.linear_paths("all")) == {path for path in linear if path.startswith(blocks)}


@pytest.mark.parametrize("name", OTHERS)
def test_all_norms_of_the_blocks_have_a_role(name):
    model = tiny_model(name)
    anatomy = anatomy_of(model)
    blocks = tuple(f"{layer.block}." for layer in anatomy.layers)
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    found = {path for layer in anatomy.layers for path in layer.norms.values()}
    assert found == {path for path in norms if path.startswith(blocks)}


@pytest.mark.parametrize("name", OTHERS)
def test_the_shape_counts_every_parameter_and_every_linear_map(name):
    model = tiny_model(name)
    shape = ModelShape.from_config(model.config.to_dict())
    assert shape.parameters() == sum(parameter.numel() for parameter in model.parameters())
    bare = f"{family_of(model.config.to_dict()).body}." if not anatomy_of(model).body else ""
    found = {path.removeprefix(bare): (maps.inputs, maps.outputs) for _, path, maps in linear_places(shape)}
    own = {path: model.get_submodule(path) for path in anatomy_of(model).linear_paths()}
    assert found == {path: (module.in_features, module.out_features) for path, module in own.items()}
    assert list(found) == list(own)
    biased = {maps.role for _, path, maps in linear_places(shape) if own[path.removeprefix(bare)].bias is not None}
    assert biased == shape.biased


@pytest.mark.parametrize("name", OTHERS)
def test_sublayers_run_in_the_order_of_their_names(name):
    """Hooks record the order: what reads the residual stream, attention itself, the sublayer's end, then the next."""
    model, order = tiny_model(name), []
    expected = []
    for layer in anatomy_of(model).layers:
        for sublayer, path in layer.sublayers.items():
            attends = {"attention": layer.attends, "cross": layer.cross_attends}.get(sublayer, layer.reads[sublayer])
            expected += [("in", layer.streams[sublayer]), ("in", attends), ("out", path)]
    for kind, path in dict.fromkeys(expected):
        module = model.get_submodule(path)
        if kind == "in":
            module.register_forward_pre_hook(lambda *_, path=path: order.append(("in", path)))
        else:
            module.register_forward_hook(lambda *_, path=path: order.append(("out", path)))
    model(**inputs_of(name))
    assert order == list(dict.fromkeys(expected))


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_sublayer_returns_is_added_to_the_stream_that_it_names(name):
    """Adding a vector to the sublayer's output moves what the next stage reads by exactly that vector."""
    model = tiny_model(name).double()
    layer = anatomy_of(model).layers[0]
    seen = []
    after = model.get_submodule(layer.norms.get("attention_out") or layer.streams["feed_forward"])
    after.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs_of(name).items()}
    model(**inputs)
    shift = torch.arange(32, dtype=torch.float64)
    model.get_submodule(layer.attention).register_forward_hook(
        lambda _, args, output: (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift
    )
    model(**inputs)
    torch.testing.assert_close(seen[1] - seen[0], shift.expand_as(seen[0]))


def test_a_role_means_every_attention_and_a_cross_role_cross_attention_alone():
    for name in ("t5", "bart"):
        anatomy = anatomy_of(tiny_model(name))
        assert len(anatomy.linear_paths(["q"])) == 2 + 2 * 2
        cross = anatomy.linear_paths(["cross_q"])
        assert len(cross) == 2
        assert all("Enc" in path or "encoder_attn" in path for path in cross)


def test_kinds_are_told_apart():
    kinds = {name: anatomy_of(tiny_model(name)).kind for name in OTHERS}
    assert {kinds[name] for name in ENCODERS} == {"encoder"}
    assert {kinds[name] for name in SEQ2SEQ} == {"encoder_decoder"}
    assert {kinds[name] for name in IMAGES} == {"image"}
    assert anatomy_of(tiny_model("llama")).kind == "decoder"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "roberta", "add_cross_attention": True},
        {"model_type": "deberta-v2", "pos_att_type": ["c2p"], "share_att_key": False},
        {"model_type": "gpt2", "is_encoder_decoder": True},
    ],
)
def test_a_variant_that_attends_otherwise_is_refused(config):
    with pytest.raises(PlanError) as caught:
        family_of(config)
    assert caught.value.code == "E-MODEL-ATTENTION"


def test_the_sides_of_a_bart_must_have_equal_widths():
    config = {**tiny_model("bart").config.to_dict(), "encoder_ffn_dim": 64}
    with pytest.raises(PlanError) as caught:
        ModelShape.from_config(config)
    assert caught.value.code == "E-MODEL-SHAPE"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_places_of_decoders_from_the_shape_are_those_of_the_model(name):
    model = tiny_model(name)
    shape = ModelShape.from_config(model.config.to_dict())
    assert [path for _, path, _ in linear_places(shape)] == anatomy_of(model).linear_paths()
