"""Encoder-decoders: states, scores and generation against transformers' own forward pass and `generate`."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import rows
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import LoRA, Prefix, Prompt
from tests.tiny_models import SEQ2SEQ, VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FAMILIES = ["t5", "bart"]
PROMPTS = [5, 3, 8, 4]


class PadZero:
    pad_token_id = 0


def texts(lengths, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def adapted(family):
    """With two prompts, a prefix and a LoRA that matter."""
    model = tiny_model(family).double()
    for name, method in {"long": Prompt(length=4), "short": Prompt(length=2), "fix": Prefix(length=3, hidden=None),
                         "low": LoRA(rank=2)}.items():  # fmt: skip
        method.attach(model, name)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_packed_rows_give_the_logits_of_the_models_own_forward_pass(family):
    model = tiny_model(family).double()
    requests, replies = texts([5, 3, 8]), texts([4, 2, 3], seed=6)
    encoded = [
        Encoded("", "", (*ask, *say), (False,) * len(ask) + (True,) * len(say))
        for ask, say in zip(requests, replies, strict=True)
    ]
    batch = pack(encoded)
    hidden = packed_hidden(model, batch)
    start = model.config.decoder_start_token_id
    for ask, say, offset in zip(requests, replies, batch.offsets, strict=False):
        expected = model(torch.tensor([ask]), decoder_input_ids=torch.tensor([[start, *say[:-1]]])).logits[0]
        place = offset + len(ask) - 1
        assert_close(head_logits(model, hidden[place : place + len(say)]), expected, rtol=1e-4, atol=1e-4)
        assert batch.targets[place : place + len(say)].tolist() == say


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_log_probabilities_of_the_answer(family):
    model = tiny_model(family)
    ask, options = texts([6])[0], texts([3, 1, 4], seed=6)
    rows_ = [Scored((*ask, *say), len(ask)) for say in options]
    found = token_logprobs(model, rows_)
    start = model.config.decoder_start_token_id
    for say, own in zip(options, found, strict=True):
        logits = model(torch.tensor([ask]), decoder_input_ids=torch.tensor([[start, *say[:-1]]])).logits[0]
        assert_close(
            torch.tensor(own), logits.log_softmax(-1).gather(1, torch.tensor(say)[:, None])[:, 0], rtol=1e-4, atol=1e-4
        )
    grouped = group_logprobs(model, [rows_])
    assert_close(torch.tensor(grouped[0]), torch.tensor([sum(own) for own in found]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stack", [(), ("low",), ("fix",), ("long",), ("short", "long", "fix", "low")])
def test_greedy_answers_are_those_of_transformers_generate_and_of_each_row_alone(family, stack):
    model = adapted(family)
    model.generation_config.forced_eos_token_id = None
    prompts = texts(PROMPTS)
    with rows(model, [stack]):
        alone = [
            model.generate(torch.tensor([prompt]), do_sample=False, num_beams=1, max_new_tokens=7, min_new_tokens=7)
            for prompt in prompts
        ]
    expected = [row[0, 1:8].tolist() for row in alone]
    found = generate(model, PadZero(), prompts, max_new_tokens=7, stop_ids=set(), rows=[stack] * len(prompts))
    assert [answer for answer in found if 2 not in answer] == [
        own for own, answer in zip(expected, found, strict=True) if 2 not in answer
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_adapters_answer_as_each_does_alone_also_when_some_have_stopped(family):
    model = adapted(family)
    prompts, stacks = texts(PROMPTS), [("long",), (), ("short", "low"), ("fix",)]

    def answers(prompts, stacks, stop_ids):
        return generate(model, PadZero(), prompts, max_new_tokens=9, stop_ids=stop_ids, rows=stacks)

    free = answers(prompts, stacks, set())
    stops = {free[0][2], free[1][1]}
    alone = [answers([prompt], [stack], stops)[0] for prompt, stack in zip(prompts, stacks, strict=True)]
    assert answers(prompts, stacks, stops) == alone
    assert len(alone[0]) <= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_of_rows_of_different_adapters_are_those_that_each_row_finds_alone(family):
    model = adapted(family)
    model.generation_config.forced_eos_token_id = None
    prompts, stacks = texts(PROMPTS), [("long",), (), ("short", "low"), ("fix",)]
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    ids = torch.zeros(len(prompts), max(PROMPTS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    with rows(model, stacks, repeat=3):
        together = model.generate(ids, attention_mask=mask, **search)
    for prompt, stack, found in zip(prompts, stacks, together, strict=True):
        with rows(model, [stack], repeat=3):
            assert torch.equal(found, model.generate(torch.tensor([prompt]), **search)[0])
    assert len({tuple(beam.tolist()) for beam in together}) > 1


def test_a_prompt_stands_before_the_text_of_the_encoder_and_the_decoder_reads_it():
    """T5 by hand: the encoder on [P; E(x)], the decoder on all of its output (Lester et al. 2021)."""
    model = adapted("t5")
    plain = tiny_model("t5").double()
    virtual = next(model.keeptune.adapter("long").parameters())
    ask, say = texts([5])[0], texts([3], seed=6)[0]
    embedded = torch.cat([virtual, plain.shared(torch.tensor(ask))])[None]
    expected = plain(inputs_embeds=embedded, decoder_input_ids=torch.tensor([say])).logits
    padded = torch.tensor([[*ask, 0, 0], texts([7], seed=9)[0]])
    mask = torch.tensor([[1] * 5 + [0] * 2, [1] * 7])
    with rows(model, ["long", None]):
        found = model(padded, attention_mask=mask, decoder_input_ids=torch.tensor([say, say])).logits
    assert_close(found[:1], expected, **CLOSE)


def test_t5s_biases_of_distances_stay_those_of_the_text_and_are_zero_for_a_prefix():
    """The first self-attention of the encoder, written out: softmax([q P_k', q K' + b]) [P_v; V] W_o."""
    model = tiny_model("t5").double()
    Prefix(length=3, hidden=None, layers=[0]).attach(model, "one")
    placed = {type(place).__name__: delta for place, delta, _ in model.keeptune.adapter("one").placed[0]}
    layer = model.encoder.block[0].layer[0]
    seen = {}
    layer.SelfAttention.register_forward_hook(lambda module, args, output: seen.update(found=output[0]))
    tokens = torch.tensor(texts([6]))
    model(tokens, decoder_input_ids=tokens)
    normed = layer.layer_norm(model.shared(tokens))
    q, k, v = (getattr(layer.SelfAttention, name)(normed).view(6, 4, 8).transpose(0, 1) for name in "qkv")
    keys, values = (side.double().transpose(0, 1) for side in placed["KeysValues"].keys_values())
    bias = layer.SelfAttention.compute_bias(6, 6)[0]
    scores = torch.cat([q @ keys.transpose(1, 2), q @ k.transpose(1, 2) + bias], dim=2)
    expected = (scores.softmax(-1) @ torch.cat([values, v], dim=1)).transpose(0, 1).reshape(1, 6, 32)
    assert_close(seen["found"], layer.SelfAttention.o(expected), **CLOSE)
