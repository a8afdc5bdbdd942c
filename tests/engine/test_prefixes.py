"""Prefixes inside attention: packed, padded and cached, against a filled cache and against the two-softmax form."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from keeptune.data.encoder import Encoded
from keeptune.engine.attention import ATTENTION
from keeptune.engine.batch import pack
from keeptune.engine.book import detach
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import active, off, rows
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import LoRA, Prefix, Prompt
from tests.engine.adapted import CLOSE, padded, texts
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

STACKS = ["long", "short", None, ("short", "long"), "gated", ("gated", "l", "short"), ("p", "long"), "unmoved"]
LENGTHS = [5, 3, 6, 6, 1, 6, 4, 9]
MOVABLE = [name for name in CONFIGS if name not in ("llama, dynamic rope", "phi3, longrope, window")]


class PadZero:
    pad_token_id = 0


def prefixed(family="llama", **changes):
    """A model with prefixes of several kinds, a soft prompt and a LoRA, all of which matter."""
    model = tiny_model(family, **changes)
    Prefix(length=4, hidden=8).attach(model, "long")
    Prefix(length=2, hidden=None, layers=[1]).attach(model, "short")
    Prefix(length=3, hidden=None, gate=True).attach(model, "gated")
    Prefix(length=2, hidden=None, positions="none").attach(model, "unmoved")
    Prompt(length=2).attach(model, "p")
    LoRA(rank=3).attach(model, "l")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def encoded(rows_, stacks):
    made = [Encoded(str(i), "", tuple(row.tolist()), (False,) * len(row)) for i, row in enumerate(rows_)]
    return pack(made, adapters=[(stack,) if isinstance(stack, str) else stack for stack in stacks])


def alone(model, row, stack):
    with active(model, stack):
        return model(row[None]).logits[0]


@pytest.mark.parametrize("family", MOVABLE)
def test_a_joined_prefix_is_a_cache_that_holds_it(family):
    """The definition, in transformers' own attention: keys and values lie in the cache, positions go on behind it."""
    model = tiny_model(family)
    Prefix(length=2, hidden=None).attach(model, "ana")
    tensors = model.keeptune.adapter("ana").tensors()
    row = texts([2])[0]  # short of every window, which a cache would move over the prefix
    cache = DynamicCache()
    for layer in range(2):
        states = (tensors[f"{layer}.prefix_{side}"].transpose(0, 1)[None] for side in ("keys", "values"))
        cache.update(*states, layer)
    with torch.no_grad():
        expected = tiny_model(family)(row[None], past_key_values=cache, position_ids=torch.tensor([[2, 3]])).logits
        assert_close(model(row[None]).logits, expected, **CLOSE)


def test_concatenation_is_the_gated_sum_of_two_softmaxes():
    """He et al. (2021), equation 7: head = (1 - l) Attn(text) + l Attn(prefix), l the prefix's share of the weights."""
    model = tiny_model("llama", num_hidden_layers=1, num_key_value_heads=4)
    Prefix(length=3, hidden=None, positions="none").attach(model)
    seen = {}
    attention = model.model.layers[0].self_attn
    attention.o_proj.register_forward_pre_hook(lambda module, args: seen.update(ours=args[0]))
    for name in ("q", "k", "v"):
        attention.get_submodule(f"{name}_proj").register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    tokens = texts([6])[0][None]
    with torch.no_grad():
        model(tokens)
        cos, sin = model.model.rotary_emb(seen["q"], torch.arange(6)[None])
    q, k, v = (seen[name].view(6, 4, 8) for name in "qkv")
    half = torch.cat([-q[..., 4:], q[..., :4]], -1), torch.cat([-k[..., 4:], k[..., :4]], -1)
    q, k = (x * cos[0][:, None] + turned * sin[0][:, None] for x, turned in zip((q, k), half, strict=True))
    tensors = model.keeptune.adapter("default").tensors()
    for head in range(4):
        for place in range(6):
            query = q[place, head] / 8**0.5
            text, own = query @ k[: place + 1, head].T, query @ tensors["0.prefix_keys"][:, head].T
            share = own.exp().sum() / (own.exp().sum() + text.exp().sum())
            from_text = text.softmax(-1) @ v[: place + 1, head]
            from_prefix = own.softmax(-1) @ tensors["0.prefix_values"][:, head]
            expected = (1 - share) * from_text + share * from_prefix
            assert_close(seen["ours"].view(6, 4, 8)[place, head], expected, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3_text", "gpt_neox", "phi3", "mistral, window"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_with_different_prefixes_are_rows_alone(family, side):
    model, texts_ = prefixed(family), texts(LENGTHS)
    ids, mask = padded(texts_, side)
    with torch.no_grad():
        with rows(model, STACKS):
            together = model(ids, attention_mask=mask).logits
        for number, (row, stack) in enumerate(zip(texts_, STACKS, strict=True)):
            assert_close(together[number][mask[number].bool()], alone(model, row, stack), **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3_text", "gpt_neox", "phi3", "mistral, window"])
def test_packed_rows_with_different_prefixes_are_rows_alone(family):
    model, texts_ = prefixed(family), texts(LENGTHS)
    with torch.no_grad():
        packed = head_logits(model, packed_hidden(model, encoded(texts_, STACKS)))
        expected = torch.cat([alone(model, row, stack) for row, stack in zip(texts_, STACKS, strict=True)])
    assert_close(packed, expected, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral, window"])
def test_a_cache_never_holds_the_prefix_and_changes_nothing(family):
    model, prompts = prefixed(family), [row.tolist() for row in texts(LENGTHS)]
    answers = generate(model, PadZero(), prompts, max_new_tokens=6, stop_ids={2}, rows=STACKS)
    for prompt, stack, answer in zip(prompts, STACKS, answers, strict=True):
        written = []
        for _ in range(6):
            token = int(alone(model, torch.tensor(prompt + written), stack)[-1].argmax())
            if token == 2:
                break
            written.append(token)
        assert answer == written
    with torch.no_grad(), active(model, "long"):
        assert model(torch.tensor([prompts[0]]), use_cache=True).past_key_values.get_seq_length() == len(prompts[0])


def test_beam_search_of_transformers_serves_each_row():
    model, prompts = prefixed(), texts([4, 4])
    settings = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with rows(model, ["long", "gated"], repeat=3):
        together = model.generate(torch.stack(prompts), **settings)
    for row, stack, found in zip(prompts, ["long", "gated"], together, strict=True):
        with active(model, stack):
            expected = model.generate(row[None], **settings)[0]
        assert torch.equal(found[: len(expected)], expected)


@pytest.mark.parametrize("stack", ["long", "gated", ("p", "short")])
def test_scoring_with_and_without_a_shared_prompt_agrees(stack):
    model = prefixed()
    start, ends = texts([5])[0].tolist(), [row.tolist() for row in texts([3, 1, 2], seed=6)]
    group = [Scored(start + end, 5) for end in ends]
    with torch.no_grad(), active(model, stack):
        shared = group_logprobs(model, [group, group[:2]])[0]
        packed = [sum(row) for row in token_logprobs(model, group)]
        by_hand = []
        for row in group:
            scores = alone(model, torch.tensor(row.tokens), stack).log_softmax(-1)
            by_hand.append(sum(float(scores[t - 1, row.tokens[t]]) for t in range(5, len(row.tokens))))
    assert shared == pytest.approx(by_hand, abs=1e-4)
    assert packed == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("packs", [False, True])
def test_gradients_together_are_gradients_apart_and_survive_checkpointing(packs):
    texts_, found = texts([4] * len(STACKS)), []
    for mode in ("together", "apart", "checkpointed"):
        model = prefixed().train()
        if mode == "checkpointed":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if mode == "apart":
            for row, stack in zip(texts_, STACKS, strict=True):
                if stack is not None:
                    with active(model, stack):
                        model(row[None]).logits.square().sum().backward()
        elif packs:
            head_logits(model, packed_hidden(model, encoded(texts_, STACKS))).square().sum().backward()
        else:
            with rows(model, STACKS):
                loss = model(torch.stack(texts_), use_cache=False).logits.square().sum()
            loss.backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for key, gradient in found[0].items():
        assert gradient.abs().sum() > 0
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-4)
        assert torch.equal(gradient, found[2][key])


def test_in_bfloat16_packed_gradients_follow_those_of_float32():
    """The backward pass of `matrix_gradient` with more keys than queries."""
    texts_, found = texts([6, 6, 4]), []
    for dtype in (torch.float32, torch.bfloat16):
        model = prefixed().to(dtype)
        for parameter in model.keeptune.parameters():
            parameter.data = parameter.data.float()
        batch = encoded(texts_, [("l", "long"), ("l", "short"), "long"])
        head_logits(model, packed_hidden(model, batch)).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.keeptune.adapter("long").parameters()]))
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.98


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_a_pass_without_a_prefix_runs_the_models_own_attention(kind):
    model = tiny_model("llama")
    model.set_attn_implementation(kind)
    tokens = torch.stack(texts([5, 5]))
    before = model(tokens).logits
    Prefix(length=3).attach(model)
    assert not torch.allclose(model(tokens).logits, before, atol=1e-3)
    assert model.config._attn_implementation == kind
    with off(model):
        assert torch.equal(model(tokens).logits, before)
    detach(model, "default")
    assert torch.equal(model(tokens).logits, before)


def test_a_pass_that_fails_leaves_the_models_own_attention():
    model = prefixed()
    model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda module, args: 1 / 0)
    with active(model, "long"), pytest.raises(ZeroDivisionError):
        model(texts([3])[0][None])
    assert model.config._attn_implementation == "eager"


def test_an_attention_whose_masks_are_not_read_gives_way_to_keeptunes():
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    Prefix(length=3).attach(model)
    assert model.config._attn_implementation == ATTENTION


def test_positions_are_counted_on_behind_a_cache_and_past_left_pads():
    model = tiny_model("gpt2")
    Prefix(length=3, hidden=None).attach(model)
    seen = []
    model.transformer.wpe.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    ids, mask = padded(texts([4, 2]), "left")
    cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
    model(ids[:, :1], attention_mask=torch.cat([mask, mask[:, -1:]], 1), past_key_values=cache)
    model(ids[:, :1])
    assert seen[0][0].tolist() == [3, 4, 5, 6]
    assert seen[0][1, 2:].tolist() == [3, 4]
    assert seen[1].tolist() == [[7], [5]]
    assert seen[2].tolist() == [[3], [3]]


def test_far_tokens_see_the_prefix_through_a_window():
    model = tiny_model("mistral, window")
    Prefix(length=2, hidden=None).attach(model)
    row = torch.randint(3, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(1))
    before = model(row).logits[0, -1]
    with torch.no_grad():
        model.keeptune.adapter("default").tensors()["1.prefix_values"].add_(1.0)
    assert not torch.allclose(model(row).logits[0, -1], before, atol=1e-3)
