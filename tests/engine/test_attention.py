"""The padded path against transformers' own attention: padding on both sides, caches, generation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from keeptune.core.errors import PlanError
from keeptune.data.encoder import Encoded
from keeptune.engine.attention import ATTENTION, attention, use_attention
from keeptune.engine.batch import pack
from keeptune.engine.packed import packed_hidden
from keeptune.engine.segments import Segments, current_segments, segments
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

TOLERANCE = 1e-5
SDPA = [name for name in CONFIGS if not name.startswith("gemma2")]


def padded(side: str) -> dict[str, torch.Tensor]:
    """Three rows of 18, 11 and 4 tokens, beyond every sliding window."""
    torch.manual_seed(3)
    tokens, mask = torch.randint(3, VOCABULARY, (3, 18)), torch.ones(3, 18, dtype=torch.long)
    for row, length in enumerate([18, 11, 4]):
        empty = slice(0, 18 - length) if side == "left" else slice(length, 18)
        tokens[row, empty], mask[row, empty] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def ours(name: str) -> nn.Module:
    model = tiny_model(name)
    use_attention(model)
    return model


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CONFIGS)
def test_padded_rows_equal_the_reference(name, side):
    batch = padded(side)
    with torch.no_grad():
        expected, got = tiny_model(name)(**batch).logits, ours(name)(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_without_padding_equal_the_reference(name):
    tokens = padded("left")["input_ids"][:1].repeat(2, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours(name)(tokens).logits, tiny_model(name)(tokens).logits, rtol=0, atol=TOLERANCE)


def generated(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and logits of eight greedy steps from left-padded prompts."""
    batch = padded("left")
    del batch["position_ids"]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    found = model.generate(**batch, **settings, output_logits=True, return_dict_in_generate=True)
    return found.sequences, torch.stack(found.logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_generation_writes_what_the_reference_writes(name):
    assert torch.equal(generated(ours(name))[0], generated(tiny_model(name))[0])


@pytest.mark.parametrize("name", SDPA)
def test_cached_generation_from_left_padding_equals_the_reference(name):
    """Against sdpa bitwise in float32: both round alike, by more than 1e-5 on some processors; and in float64."""
    reference = tiny_model(name)
    reference.set_attn_implementation("sdpa")
    assert torch.equal(generated(ours(name))[1], generated(reference)[1])
    truth = generated(reference.double())[1]
    torch.testing.assert_close(generated(ours(name).double())[1], truth, rtol=0, atol=1e-6)


def test_cached_generation_with_soft_capped_scores_equals_the_reference():
    expected, got = generated(tiny_model("gemma2"))[1], generated(ours("gemma2"))[1]
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_several_queries_after_a_cache_see_their_own_past(name):
    tokens = padded("left")["input_ids"][:1]
    if "longrope" in name:
        tokens = tokens[:, :11]
    model = ours(name)
    with torch.no_grad():
        whole = tiny_model(name)(tokens).logits[:, 7:]
        cache = model(tokens[:, :7], use_cache=True).past_key_values
        after = model(tokens[:, 7:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(after, whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SDPA)
def test_using_our_attention_keeps_padded_outputs_bitwise(name):
    batch, model = padded("left"), tiny_model(name)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        before = model(**batch).logits
        use_attention(model)
        after = model(**batch).logits
    assert torch.equal(before, after)


def test_using_our_attention_keeps_soft_capped_outputs_bitwise():
    batch, model = padded("right"), tiny_model("gemma2")
    with torch.no_grad():
        before = model(**batch).logits
        use_attention(model)
        assert torch.equal(before, model(**batch).logits)


def test_a_saved_model_does_not_ask_for_our_attention(tmp_path):
    model = ours("llama")
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


def plain_attention(query, key, value, offsets, *, scaling, window=None, softcap=None) -> torch.Tensor:
    """A loop over tokens, in float64: the definition."""
    heads, total, width = query.shape[1:]
    output = torch.zeros(total, heads, width, dtype=torch.float64)
    share = heads // key.shape[1]
    for start, end in itertools.pairwise(offsets):
        for position in range(start, end):
            first = start if window is None else max(start, position - window + 1)
            for head in range(heads):
                keys = key[0, head // share, first : position + 1].double()
                scores = keys @ query[0, head, position].double() * scaling
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                output[position, head] = scores.softmax(0) @ value[0, head // share, first : position + 1].double()
    return output[None]


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_packed_attention_is_its_definition(window, softcap, key_heads):
    torch.manual_seed(4)
    offsets = (0, 4, 4, 9, 14, 15)
    query = torch.randn(1, 4, 15, 8)
    key, value = torch.randn(2, 1, key_heads, 15, 8)
    settings = {"scaling": 0.4, "softcap": softcap}
    got, weights = attention(nn.Identity(), query, key, value, Segments(offsets), sliding_window=window, **settings)
    expected = plain_attention(query, key, value, offsets, window=window, **settings)
    assert weights is None
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)


def test_attention_sinks_are_refused_by_name():
    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(PlanError, match="attention sinks") as caught:
        attention(nn.Identity(), states, states, states, Segments((0, 2)), s_aux=torch.zeros(1))
    assert caught.value.code == "E-MODEL-ATTENTION"


def test_segments_end_with_their_block():
    with segments([0, 3]) as packed:
        assert current_segments() is packed
    assert current_segments() is None


def test_a_padded_forward_after_a_packed_one_is_padded_again():
    model = tiny_model("mistral, window")
    tokens = padded("left")["input_ids"][:1]
    row = Encoded("a", "task", (4, 5, 6), (True,) * 3)
    with torch.no_grad():
        packed_hidden(model, pack([row, row]))
        got, expected = model(tokens).logits, tiny_model("mistral, window")(tokens).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
