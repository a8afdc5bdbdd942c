"""Bottleneck adapters against the block written out by hand, and against the published count."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.rows import off
from keeptune.methods import Bottleneck
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def attached(family, method, spread=0.3):
    model = tiny_model(family)
    method.attach(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def network(tensors, path, z, activation=functional.gelu):
    """The formula of the paper, unit by unit."""
    part = {key: tensors[f"{path}.{key}"].double() for key in ("down", "down_bias", "up", "up_bias")}
    inner = activation(z.double() @ part["down"].T + part["down_bias"])
    return (inner @ part["up"].T + part["up_bias"]).float()


def by_hand(family, method, tensors):
    """Logits with the blocks of a plain model run one at a time, and the adapters written between the sublayers."""
    model = tiny_model(family)
    decoder, attention, mlp = (
        (model.model, "self_attn", "mlp") if family == "llama" else (model.transformer, "attn", "mlp")
    )
    blocks = decoder.layers if family == "llama" else decoder.h
    prefix = "model.layers" if family == "llama" else "transformer.h"
    first, second = ("input_layernorm", "post_attention_layernorm") if family == "llama" else ("ln_1", "ln_2")
    triangle = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1)[None, None]
    positions = torch.arange(9)[None]
    stream = model.get_input_embeddings()(TOKENS)
    extra = {}
    if family == "llama":
        extra = {"position_embeddings": decoder.rotary_emb(stream, positions)}
    else:
        stream = stream + decoder.wpe(positions)

    def norm(block, name, path, value):
        value = block.get_submodule(name)(value)
        if not method.train_layernorm:
            return value
        gain, bias = (tensors.get(f"{path}.{name}.{kind}", torch.zeros(1)) for kind in ("gain", "bias"))
        return value * (1 + gain) + bias

    for number, block in enumerate(blocks):
        path = f"{prefix}.{number}"
        adapted = method.layers == "all" or number in method.layers
        houlsby = method.placement == "houlsby"
        inner = norm(block, first, path, stream)
        out = block.get_submodule(attention)(hidden_states=inner, attention_mask=triangle, **extra)[0]
        stream = stream + out + (network(tensors, f"{path}.{attention}", out) if adapted and houlsby else 0)
        out = block.get_submodule(mlp)(norm(block, second, path, stream))
        if adapted and houlsby:
            out = out + network(tensors, f"{path}.{mlp}", out)
        stream = stream + out
        if adapted and not houlsby:
            stream = stream + network(tensors, path, stream)
    final = decoder.norm if family == "llama" else decoder.ln_f
    return model.lm_head(final(stream))


@pytest.mark.parametrize("settings", [{}, {"placement": "pfeiffer"}, {"train_layernorm": True}, {"layers": [1]}])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_logits_are_those_of_the_blocks_written_out(family, settings):
    method = Bottleneck(bottleneck=5, **settings)
    model = attached(family, method)
    tensors = model.keeptune.adapter("default").tensors()
    with torch.no_grad():
        expected = by_hand(family, method, tensors)
        assert_close(model(TOKENS).logits, expected, **CLOSE)
        assert (expected - tiny_model(family)(TOKENS).logits).abs().max() > 0.1


def test_trained_norms_can_be_anything_that_a_norm_can_be():
    """y (1 + g) + b beside the frozen norm is a norm with other gains and biases."""
    model = attached("gpt2", Bottleneck(bottleneck=4, train_layernorm=True), spread=0.0)
    tensors = model.keeptune.adapter("default").tensors()
    other = tiny_model("gpt2")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, norm in other.named_modules():
            if name.endswith(("ln_1", "ln_2")):
                ours = model.get_submodule(name)
                norm.weight.copy_(torch.rand(32, generator=generator) + 0.5)
                norm.bias.copy_(torch.randn(32, generator=generator))
                tensors[f"{name}.gain"].copy_(norm.weight / ours.weight - 1)
                tensors[f"{name}.bias"].copy_(norm.bias - ours.bias * norm.weight / ours.weight)
    assert_close(model(TOKENS).logits, other(TOKENS).logits, **CLOSE)
    with off(model):
        assert torch.equal(model(TOKENS).logits, tiny_model("gpt2")(TOKENS).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("settings", [{"train_layernorm": True}, {"placement": "pfeiffer"}, {"layers": [0]}])
def test_the_count_follows_the_settings(family, settings):
    model, method = tiny_model(family), Bottleneck(bottleneck=3, **settings)
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted


def test_the_count_of_a_large_model_is_the_published_formula():
    """2 L (2 D r + D + r) with L = 24, D = 1024, r = 64: the adapters of BERT large."""
    config = {"model_type": "gpt2", "vocab_size": 30522, "n_embd": 1024, "n_layer": 24, "n_head": 16}
    shape = ModelShape.from_config(config)
    assert Bottleneck(bottleneck=64).cost(shape).trainable_parameters == 6_343_680
    with_norms = Bottleneck(bottleneck=64, train_layernorm=True).cost(shape).trainable_parameters
    assert with_norms == 6_343_680 + 4 * 24 * 1024


def test_the_normal_start_is_near_the_identity_and_cut_at_two_deviations():
    model = tiny_model("llama")
    before = model(TOKENS).logits
    Bottleneck(bottleneck=64, init="normal").attach(model)
    change = (model(TOKENS).logits - before).abs().max()
    assert 0 < change < 0.1
    for key, tensor in model.keeptune.adapter("default").tensors().items():
        if key.endswith((".down", ".up")):
            assert tensor.abs().max() <= 0.02
            assert 0.008 < tensor.std() < 0.0095
        else:
            assert tensor.abs().max() == 0


@pytest.mark.parametrize("layers", [[2], [-1], []])
def test_a_layer_that_is_nowhere_is_refused(layers):
    model, method = tiny_model("llama"), Bottleneck(layers=layers)
    for refused in (lambda: method.attach(model), lambda: method.cost(ModelShape.from_config(model.config.to_dict()))):
        with pytest.raises(PlanError) as caught:
            refused()
        assert caught.value.code == "E-METHOD-LAYER"
    assert not hasattr(model, "keeptune")
