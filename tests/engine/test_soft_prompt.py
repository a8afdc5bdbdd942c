"""Virtual tokens against writing them out by hand, in every form that a batch can have."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.engine.batch import PackedBatch
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import active, rows
from keeptune.engine.segments import segments
from tests.engine.adapted import CLOSE, LENGTHS, STACKS, adapted, alone, padded, texts, virtual

FAMILIES = ["llama", "gpt2", "gemma", "gemma2", "gemma3_text", "mistral, window", "gpt_neox"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_is_its_prompts_before_its_text(family, side):
    model = adapted(family)
    ids, mask = padded(texts(), side)
    with rows(model, STACKS):
        logits = model(ids, attention_mask=mask).logits
    for row, (text, stack) in enumerate(zip(texts(), STACKS, strict=True)):
        assert_close(logits[row][mask[row].bool()], alone(model, text, stack), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_segments_are_their_prompts_before_their_text(family):
    model = adapted(family)
    offsets = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    batch = PackedBatch(
        tokens=torch.cat(texts()),
        positions=torch.cat([torch.arange(length) for length in LENGTHS]),
        offsets=offsets,
        targets=torch.full((sum(LENGTHS),), -100),
        weights=None,
        adapters=[(stack,) if isinstance(stack, str) else stack for stack in STACKS],
        sources=[""] * 5,
        ids=[""] * 5,
    )
    expected = torch.cat([alone(model, text, stack) for text, stack in zip(texts(), STACKS, strict=True)])
    assert_close(head_logits(model, packed_hidden(model, batch)), expected, **CLOSE)


def test_given_positions_move_up_by_the_prompt():
    model = adapted("gpt2")
    ids, mask = padded(texts(), "left")
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    with rows(model, STACKS):
        expected = model(ids, attention_mask=mask).logits
        assert torch.equal(model(ids, attention_mask=mask, position_ids=counted).logits, expected)


def test_labels_and_hidden_states_stay_aligned_with_the_input():
    model = adapted()
    ids = torch.stack(texts([5, 5]))
    with active(model, "a"):
        output = model(ids, labels=ids, output_hidden_states=True)
    logits = torch.stack([alone(model, row, "a") for row in ids])
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert_close(output.loss, expected, **CLOSE)
    assert {states.shape for states in output.hidden_states} == {(2, 5, 32)}


@pytest.mark.parametrize("kept", [1, 3])
def test_only_the_last_logits_can_be_kept(kept):
    model = adapted()
    with active(model, "a"):
        whole = model(torch.stack(texts([5, 5]))).logits
        assert_close(model(torch.stack(texts([5, 5])), logits_to_keep=kept).logits, whole[:, -kept:], **CLOSE)


def test_the_gradient_of_a_prompt_is_that_of_writing_it_out():
    model = adapted()
    text = texts()[0]
    found = []
    for by_hand in (True, False):
        model.zero_grad()
        if by_hand:
            alone(model, text, "a").square().sum().backward()
        else:
            ids, mask = padded([text, *texts([8])], "left")
            with rows(model, ["a", "b"]):
                model(ids, attention_mask=mask).logits[0][mask[0].bool()].square().sum().backward()
        found.append(virtual(model, "a").grad.clone())
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_of_transformers_gives_each_row_what_it_gets_alone_without_a_cache(family, beams):
    model = adapted(family)
    ids, mask = padded(texts(), "left")
    settings = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    with rows(model, STACKS, repeat=beams):
        together = model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
    for row, (text, stack) in enumerate(zip(texts(), STACKS, strict=True)):
        with rows(model, [stack], repeat=beams):
            single = model.generate(text[None], attention_mask=torch.ones_like(text[None]), use_cache=False, **settings)
        written = single[0, len(text) :].tolist()
        assert together[row].tolist()[: len(written)] == written


def test_a_cache_filled_under_another_prompt_is_refused():
    model = adapted()
    text = texts()[0][None]
    for first, then in [("a", None), (None, "a"), ("a", "b")]:
        with active(model, first):
            cache = model(text, use_cache=True).past_key_values
        with active(model, then), pytest.raises(PlanError) as caught:
            model(text[:, :1], past_key_values=cache)
        assert caught.value.code == "E-PROMPT-CACHE"


def test_a_packed_pass_that_forgets_the_prompt_is_refused():
    model = adapted()
    with active(model, "a"), segments([0, 5]), pytest.raises(PlanError) as caught:
        model.base_model(texts()[0][None])
    assert caught.value.code == "E-PROMPT-PACKED"


def test_a_mask_that_is_not_one_number_per_token_is_refused():
    model = adapted()
    with active(model, "a"), pytest.raises(PlanError) as caught:
        model(texts()[0][None], attention_mask=torch.ones(1, 1, 5, 5))
    assert caught.value.code == "E-PROMPT-MASK"
