"""Parallel adapters against the block written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.shape import ModelShape
from keeptune.engine.rows import rows
from keeptune.methods import Bottleneck, Parallel
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
VARIANTS = [
    {},
    {"input": "normed"},
    {"on": "attention", "scale": 0.5},
    {"on": "attention", "input": "normed", "scale": "learned", "activation": "silu"},
    {"layers": [1], "scale": "learned"},
]


def shake(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def by_hand(family, method, tensors, parallel_blocks=False):
    """Logits with the blocks of a plain model run one at a time."""
    model = tiny_model(family)
    decoder, attention, second = {
        "llama": ("model", "self_attn", "post_attention_layernorm"),
        "gpt_neox": ("gpt_neox", "attention", "post_attention_layernorm"),
    }[family]
    body = getattr(model, decoder)
    stream = model.get_input_embeddings()(TOKENS)
    rotary = body.rotary_emb(stream, torch.arange(9)[None])
    triangle = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1)[None, None]

    def change(number, sublayer, residual, normed):
        if (method.on == "attention") != (sublayer == attention) or method.layers not in ("all", [number]):
            return 0
        part = {key.rpartition(".")[2]: t for key, t in tensors.items() if f".{number}.{sublayer}." in key}
        x = residual if method.input == "residual" else normed
        f = {"relu": torch.relu, "silu": torch.nn.functional.silu}[method.activation]
        inner = f(x @ part["down"].T + part["down_bias"])
        scale = part["scale"] if method.scale == "learned" else method.scale
        return scale * (inner @ part["up"].T + part["up_bias"])

    for number, block in enumerate(body.layers):
        normed = block.input_layernorm(stream)
        out = block.get_submodule(attention)(normed, attention_mask=triangle, position_embeddings=rotary)[0]
        out = out + change(number, attention, stream, normed)
        between = stream if parallel_blocks else stream + out
        normed = block.get_submodule(second)(between)
        fed = block.mlp(normed) + change(number, "mlp", between, normed)
        stream = fed + out + stream if parallel_blocks else between + fed
    final, head = (
        (body.norm, model.lm_head) if family == "llama" else (body.final_layer_norm, model.get_output_embeddings())
    )
    return head(final(stream))


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize(("family", "parallel_blocks"), [("llama", False), ("gpt_neox", True)])
def test_the_logits_are_those_of_the_blocks_written_out(family, parallel_blocks, settings):
    method = Parallel(bottleneck=5, **settings)
    model = tiny_model(family)
    method.attach(model)
    shake(model)
    with torch.no_grad():
        expected = by_hand(family, method, model.keeptune.adapter("default").tensors(), parallel_blocks)
        assert_close(model(TOKENS).logits, expected, **CLOSE)
        assert (expected - tiny_model(family)(TOKENS).logits).abs().max() > 0.1


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "phi3", "qwen3"])
def test_every_variant_counts_as_it_says_and_starts_as_the_base(family, settings):
    model, method = tiny_model(family), Parallel(bottleneck=5, **settings)
    before = model(TOKENS).logits
    method.attach(model)
    assert torch.equal(model(TOKENS).logits, before)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
    shake(model)
    assert not torch.allclose(model(TOKENS).logits, before, atol=1e-2)


def test_rows_at_one_sublayer_are_served_as_if_alone():
    model = tiny_model("llama")
    Parallel(bottleneck=3).attach(model, "beside")
    Bottleneck(bottleneck=3).attach(model, "behind")
    Parallel(bottleneck=4, input="normed", scale="learned").attach(model, "normed")
    shake(model)
    stacks = [("beside", "behind"), "normed", None, ("normed", "beside")]
    texts = torch.randint(3, VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        with rows(model, stacks):
            together = model(texts).logits
        for number, stack in enumerate(stacks):
            with rows(model, [stack]):
                assert_close(together[number], model(texts[number : number + 1]).logits[0], **CLOSE)


def test_the_stream_is_not_kept_after_a_pass():
    model = tiny_model("llama").train()
    Parallel(bottleneck=3).attach(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    assert all(slot._stream is None for slot in model.keeptune.slots.values())
