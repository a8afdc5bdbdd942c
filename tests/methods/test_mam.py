"""MAM against its two parts, attached one on the other."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.rows import active
from keeptune.methods import MAM, Parallel, Prefix, attach, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
SMALL = {"length": 3, "hidden": 8, "bottleneck": 4}


def shaken(model):
    for name, parameter in model.keeptune.named_parameters():
        generator = torch.Generator().manual_seed(sum(map(ord, name.split("-", 1)[1].split(".parts.")[1][2:])))
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"scale": "learned", "input": "normed"}, {"positions": "none", "layers": [1]}]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_it_is_the_prefix_and_the_parallel_adapter_together(family, settings):
    ours, apart, hybrid = (tiny_model(family) for _ in range(3))
    method = MAM(**SMALL, **settings)
    method.attach(ours, seed=3)
    method.prefix.attach(apart, "prefix", seed=3)
    method.parallel.attach(apart, "parallel", seed=3)
    attach(hybrid, [method.prefix, method.parallel], seed=3)
    for model in (ours, apart, hybrid):
        shaken(model)
    with torch.no_grad(), active(apart, ["prefix", "parallel"]):
        expected = apart(TOKENS).logits
    assert torch.equal(ours(TOKENS).logits, expected)
    assert torch.equal(hybrid(TOKENS).logits, expected)
    with active(apart, "prefix"):
        assert not torch.allclose(apart(TOKENS).logits, expected, atol=1e-2)
    with active(apart, "parallel"):
        assert not torch.allclose(apart(TOKENS).logits, expected, atol=1e-2)


def test_its_cost_is_the_sum_and_the_file_drops_the_network(tmp_path):
    model, method = tiny_model("llama"), MAM(**SMALL)
    method.attach(model, "ana")
    shaken(model)
    shape = ModelShape.from_config(model.config.to_dict())
    parts = [Prefix(length=3, hidden=8).cost(shape), Parallel(bottleneck=4).cost(shape)]
    assert method.cost(shape)[:2] == tuple(sum(part[number] for part in parts) for number in (0, 1))
    save_adapter(model, "ana", tmp_path)
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path, "ana")
    assert torch.equal(fresh(TOKENS).logits, model(TOKENS).logits)
    assert fresh.keeptune.adapter("ana").methods[0] == MAM(**{**SMALL, "hidden": None, "positions": "shift"})


def test_the_count_of_the_paper_for_a_7b_llama():
    """Prefix 30 and width 512: 7.86 million kept for the prefixes, 134 million for the networks."""
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    }  # fmt: skip
    cost = MAM(bottleneck=512, hidden=None).cost(ModelShape.from_config(config))
    assert cost.trainable_parameters == 7_864_320 + 32 * (2 * 4096 * 512 + 4096 + 512)


def test_what_a_part_cannot_do_the_whole_refuses():
    with pytest.raises(PlanError) as caught:
        MAM(hidden=4).attach(tiny_model("llama, dynamic rope"))
    assert caught.value.code == "E-MODEL-ROPE"
