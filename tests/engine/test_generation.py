"""Batched, cached, left-padded generation against the definition: the whole text again for every token."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from keeptune.core.errors import DataError
from keeptune.engine import generation, single_query
from keeptune.engine.generation import answer_limits, generate, sampled
from keeptune.engine.rows import rows
from tests.engine.adapted import LENGTHS, STACKS, adapted, texts

STOP = {2, 7, 11}


class Pads:
    pad_token_id = None


def slow(model, prompt, stack, limit):
    written = []
    for _ in range(limit):
        with rows(model, [stack]):
            token = int(model(torch.tensor([prompt + written]), use_cache=False).logits[0, -1].argmax())
        if token in STOP:
            break
        written.append(token)
    return written


def settings(**changes):
    return {"max_new_tokens": 9, "stop_ids": STOP, **changes}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral, window", "gemma2", "gemma3_text", "gpt_neox"])
def test_any_mix_of_adapters_in_a_batch_writes_what_each_writes_alone(family):
    model = adapted(family)
    prompts = [text.tolist() for text in texts(LENGTHS * 2)]
    expected = [slow(model, prompt, stack, 9) for prompt, stack in zip(prompts, STACKS * 2, strict=True)]
    assert generate(model, Pads(), prompts, rows=STACKS * 2, **settings()) == expected
    assert generate(model, Pads(), prompts, rows=STACKS * 2, **settings(batch_tokens=20)) == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral, window", "gpt_neox"])
def test_in_bfloat16_a_token_over_the_cache_is_attended_as_sdpa_would(family, monkeypatch):
    model, calls = adapted(family).to(torch.bfloat16), 0
    real = single_query.attend_one

    def beside_sdpa(query, key, value, mask, scale):
        nonlocal calls
        calls += 1
        found = real(query, key, value, mask, scale)
        grouped = query.shape[1] != key.shape[1]
        kernel = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
        )
        torch.testing.assert_close(found, kernel.transpose(1, 2), rtol=2**-6, atol=2**-6)
        return found

    monkeypatch.setattr(single_query, "attend_one", beside_sdpa)
    prompts = [text.tolist() for text in texts(LENGTHS * 2)]
    generate(model, Pads(), prompts, rows=STACKS * 2, **settings(stop_ids=set()))
    assert calls == 8 * model.config.num_hidden_layers


def test_without_rows_the_active_adapter_writes():
    model = adapted()
    prompts = [text.tolist() for text in texts()]
    assert generate(model, Pads(), prompts, **settings()) == [slow(model, prompt, "l", 9) for prompt in prompts]


def test_samples_depend_on_the_seed_and_not_on_the_batch():
    model = adapted()
    prompts = [text.tolist() for text in texts()]
    warm = settings(temperature=1.5, stop_ids=set())
    first = generate(model, Pads(), prompts, seed=1, **warm)
    assert first == generate(model, Pads(), prompts, seed=1, batch_tokens=1, **warm)
    assert first != generate(model, Pads(), prompts, seed=2, **warm)
    assert {len(answer) for answer in first} == {9}


def test_samples_follow_the_softmax_at_their_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).expand(20000, -1)
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(1))
    shares = torch.bincount(sampled(logits, 0.7, uniform), minlength=4) / 20000
    expected = (logits[0] / 0.7).softmax(0)
    assert (shares - expected).abs().max() < 4 * 0.5 / 20000**0.5
    assert shares[3] == 0


def test_the_mode_of_the_model_is_kept():
    model = adapted().train()
    generate(model, Pads(), [[5, 6]], **settings(max_new_tokens=1))
    assert model.training


def test_nothing_to_write_is_nothing_written():
    assert generate(adapted(), Pads(), [], **settings()) == []
    assert generate(adapted(), Pads(), [[5]], **settings(max_new_tokens=0)) == [[]]


def test_finished_rows_leave_the_batch_and_change_nothing(monkeypatch):
    model = adapted()
    prompts = [text.tolist() for text in texts(LENGTHS * 2)]
    early = {slow(model, prompts[0], "a", 3)[1], slow(model, prompts[2], None, 3)[1]}
    widths = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    stopping = generate(model, Pads(), prompts, rows=STACKS * 2, **settings(stop_ids=early))
    handle.remove()
    assert widths[-1] < len(prompts)
    monkeypatch.setattr(generation, "COMPACT_AT", 0.0)
    assert generate(model, Pads(), prompts, rows=STACKS * 2, **settings(stop_ids=early)) == stopping


def test_an_answer_ends_where_the_learned_positions_end_and_is_known_to_be_unfinished():
    model, rooms = adapted("gpt2", n_positions=16), [4, 2, 0, 6, 0]
    prompts, settings = [text.tolist() for text in texts()], {"max_new_tokens": 12, "stop_ids": set()}
    limits = [min(12, 16 - length - room) for length, room in zip(LENGTHS, rooms, strict=True)]
    assert limits == [7, 11, 10, 6, 12]
    assert answer_limits(model, prompts, 12, STACKS) == limits
    for moments in ({}, {"temperature": 1.0}, {"batch_tokens": 20}):
        made = generate(model, Pads(), prompts, rows=STACKS, **settings, **moments)
        assert [len(answer) for answer in made] == limits
    written = generate(model, Pads(), prompts, rows=STACKS, **settings)
    for prompt, stack, answer in zip(prompts, STACKS, written, strict=True):
        assert generate(model, Pads(), [prompt], rows=[stack], **settings) == [answer]


def test_a_prompt_that_fills_the_learned_positions_gets_no_answer_and_a_longer_one_is_refused():
    model = adapted("gpt2", n_positions=16)
    full = texts([16])[0].tolist()
    assert generate(model, Pads(), [full, full[:10]], rows=[None, None], **settings(stop_ids=set()))[0] == []
    with pytest.raises(DataError, match=r"17 tokens.* 16 learned positions") as refused:
        generate(model, Pads(), [[*full, 3]], rows=[None], **settings())
    assert refused.value.code == "E-DATA-LONG"


def test_positions_that_are_computed_end_no_answer():
    assert answer_limits(adapted("llama"), [[3] * 60], 500) == [500]
