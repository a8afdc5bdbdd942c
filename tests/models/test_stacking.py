"""A model put together from its own blocks is that model, in every family; from others, it holds their weights."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.models.anatomy import anatomy_of
from keeptune.models.stacking import Block, stacked
from tests.tiny_models import CONFIGS, ENCODERS, IMAGES, inputs_of, tiny_model

TOKENS = torch.tensor([[3, 9, 27, 20, 5, 14, 41, 2]])


def decoder(name):
    model = tiny_model(name).eval()
    return model if anatomy_of(model).kind == "decoder" else None


@pytest.mark.parametrize("name", [name for name in CONFIGS if decoder(name) is not None])
def test_a_model_of_its_own_blocks_is_itself(name):
    model = decoder(name)
    blocks = [Block(model, layer.index) for layer in anatomy_of(model).layers]
    again = stacked(model, blocks, first=model, last=model, seed=3).eval()
    assert set(again.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("name", [*ENCODERS, *IMAGES])
def test_so_is_an_encoder(name):
    model = tiny_model(name)
    blocks = [Block(model, layer.index) for layer in anatomy_of(model).layers]
    again = stacked(model, blocks, first=model, last=model, seed=3).eval()
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert state.keys() == model.state_dict().keys()
    with torch.no_grad():
        states = [one(**inputs_of(name), output_hidden_states=True).hidden_states[-1] for one in (model, again)]
    assert torch.equal(*states)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_a_block_may_come_twice_or_not_at_all(name):
    model = decoder(name)
    deep = stacked(model, [Block(model, 1), Block(model, 0), Block(model, 1)], first=model, last=model, seed=3).eval()
    layers, own = anatomy_of(deep).layers, anatomy_of(model).layers
    assert len(layers) == 3
    for layer, index in zip(layers, (1, 0, 1), strict=True):
        mine = deep.get_submodule(layer.block).state_dict()
        theirs = model.get_submodule(own[index].block).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    shallow = stacked(model, [Block(model, 1)], first=model, last=model, seed=3)
    assert shallow(TOKENS).logits.shape == model(TOKENS).logits.shape
    assert shallow.config.num_hidden_layers == 1
    assert model.config.num_hidden_layers == 2


def test_new_blocks_and_ends_begin_by_the_seed():
    model = decoder("llama")
    one, same, other = (
        stacked(model, [None, Block(model, 1)], first=None, last=None, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"):
        assert not torch.equal(one[name], other[name])
    kept = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(one[kept], model.state_dict()[kept])


def test_a_tied_head_stays_the_embedding():
    model = decoder("llama, biases, one key head, tied")
    made = stacked(model, [Block(model, 0)], first=model, last=None, seed=1)
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert torch.equal(made.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_parts_of_another_width_are_refused():
    model, other = decoder("llama"), decoder("gemma")
    with pytest.raises(PlanError) as caught:
        stacked(model, [Block(other, 0), Block(decoder("gpt2"), 1)], first=model, last=model, seed=1)
    assert caught.value.code == "E-STACK-SHAPE"


def test_a_block_keeps_its_own_attention_in_a_model_of_another_order():
    model = tiny_model("gemma3_text", num_hidden_layers=2)  # a window, then none
    turned = stacked(model, [Block(model, 1), Block(model, 0)], first=model, last=model, seed=1)
    back = stacked(model, [Block(turned, 1), Block(turned, 0)], first=turned, last=turned, seed=1).eval()
    assert turned.config.layer_types == ["full_attention", "sliding_attention"]
    assert back.config.layer_types == model.config.layer_types
    with torch.no_grad():
        assert torch.equal(back(TOKENS).logits, model(TOKENS).logits)


def test_a_block_that_would_lose_a_part_is_refused_and_so_are_two_stacks():
    model = tiny_model("modernbert")  # its first block has no norm before its attention
    for blocks in ([Block(model, 1)], [Block(model, 0), Block(model, 0)]):
        with pytest.raises(PlanError) as caught:
            stacked(model, blocks, first=model, last=model, seed=1)
        assert caught.value.code == "E-STACK-SHAPE"
    model = tiny_model("t5")
    with pytest.raises(PlanError, match="two stacks"):
        stacked(model, [None, None], first=model, last=model, seed=1)
