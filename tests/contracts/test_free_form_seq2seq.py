"""Soft tokens before, between and behind the texts that an encoder-decoder reads, against rows written out by hand.

The oracle builds the encoder's `inputs_embeds` of one row, [P; E(a); R; E(b); Q; E(</s>)], for the stock forward pass
of transformers; the tokenizer frames a text as `[CLS] ... [SEP]`, of which `[SEP]` stays behind everything.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.data.encoder import Encoded
from keeptune.data.starts import Starts
from keeptune.engine.batch import pack
from keeptune.engine.book import detach
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden, packed_states
from keeptune.engine.request_parts import divided
from keeptune.engine.rows import active, off, rows
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import LoRA, Prompt, PTuning, load_adapter, save_adapter
from keeptune.models.load import load
from tests.contracts.test_methods import PadZero
from tests.engine.adapted import moved
from tests.methods.test_templates import CLS, SEP, folder_of

families = pytest.mark.parametrize("family", ["t5", "bart"])
TEMPLATES = {
    "a": "{soft:2} {text} {soft:3}",
    "c": "{text:premise} {soft:2} {text:hypothesis}",
    "d": "{soft:1} {text:premise} w5 {soft:2} {text:hypothesis} {soft:1} w6",
}
CUTS = {"a": (2, 2), "c": (0, 2), "d": (1, 4), "p": (4, 4)}
"""Where among the vectors of each the first text stands, and the second: the others are behind."""
STACKS = ["a", "c", "p", None, "l", "d", ("p", "d", "a"), ("l", "c")]
TEXTS = [
    ((10, 11), (12, 13)),
    ((14,), (15, 16)),
    ((17, 18, 19), ()),
    ((20,), ()),
    ((21,), (22,)),
    ((23, 24, 25), (26,)),
]
TEXTS += [((27, 28), (29, 30)), ((31,), (32, 33, 34))]
ANSWERS = [(40, 41, 42), (43,), (44, 45), (46, 47), (48,), (49, 50), (51, 52, 53), (54, 55)]
STARTS = [(1 + len(first),) if second else () for first, second in TEXTS]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def adapted(tmp_path, family, dtype="float32"):
    """Three templates, a prompt and a LoRA, moved from their start."""
    model = load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model
    for name, template in TEMPLATES.items():
        PTuning(template=template, encoder="none").attach(model, name, seed=len(name))
    Prompt(length=4, init="uniform").attach(model, "p")
    LoRA(rank=2).attach(model, "l")
    moved(model)
    model.generation_config.forced_eos_token_id = None
    return model.double() if dtype == "float64" else model


def named(stack):
    return (stack,) if isinstance(stack, str) else stack or ()


def request(texts):
    return [CLS, *texts[0], *texts[1], SEP]


def vectors_of(model, name):
    """Of the words of `d` those of the model's own embedding."""
    soft = next(model.keeptune.adapter(name).parameters())
    if name != "d":
        return soft
    words = model.get_input_embeddings()(torch.tensor([5, 6]))
    return torch.cat([soft[:1], words[:1], soft[1:], words[1:]])


def read(model, stack, texts):
    """What the encoder reads of one row, `[T, D]`, and which of it are tokens of the row."""
    width = model.get_input_embeddings().weight
    parts = [[width[:0]] for _ in range(3)]
    for name in named(stack):
        if name != "l":
            for own, part in zip(parts, vectors_of(model, name).tensor_split(CUTS[name]), strict=True):
                own.append(part)
    front, between, behind = (torch.cat(own) for own in parts)
    first, second = texts if len(between) else ((*texts[0], *texts[1]), ())
    pieces = [[CLS, *first], list(second), [SEP]]
    tail = pieces.pop() if len(behind) else []
    pieces[1] += [] if len(behind) else pieces.pop()
    embed = model.get_input_embeddings()
    a, b, end = (embed(torch.tensor(ids, dtype=torch.long)) for ids in (*pieces, tail))
    parts = [(front, 0), (a, 1), (between, 0), (b, 1), (behind, 0), (end, 1)]
    own = torch.cat([torch.full((len(part),), mine, dtype=torch.bool) for part, mine in parts])
    return torch.cat([part for part, _ in parts]), own


def by_hand(model, stack, texts, answer):
    """Logits that predict each token of the answer and the one behind it, `[A + 1, V]`."""
    start = model.config.decoder_start_token_id
    with active(model, [name for name in named(stack) if name == "l"]):
        embedded, _ = read(model, stack, texts)
        given = torch.tensor([[start, *answer]])
        return model(inputs_embeds=embedded[None], decoder_input_ids=given, use_cache=False).logits[0]


def batch_of(stacks=STACKS):
    encoded = [
        Encoded("", "", (*request(a), *b), (False,) * len(request(a)) + (True,) * len(b), starts=Starts(starts))
        for a, b, starts in zip(TEXTS, ANSWERS, STARTS, strict=True)
    ]
    return pack(encoded, adapters=[None if stack is None else named(stack) for stack in stacks])


def cases():
    return list(zip(STACKS, TEXTS, ANSWERS, strict=True))


def learned(batch):
    return batch.targets != -100


@families
def test_packed_rows_are_the_rows_written_out_and_so_are_their_gradients(tmp_path, family):
    found = []
    for together in (True, False):
        model = adapted(tmp_path / str(together), family)
        batch = batch_of()
        if together:
            logits = head_logits(model, packed_hidden(model, batch)[learned(batch)])
        else:
            logits = torch.cat([by_hand(model, *case)[:-1] for case in cases()])
        torch.nn.functional.cross_entropy(logits, batch.targets[learned(batch)], reduction="sum").backward()
        found.append((logits, {key: p.grad for key, p in model.keeptune.named_parameters()}))
    assert_close(found[0][0], found[1][0], **CLOSE)
    for key, gradient in found[0][1].items():
        assert gradient.abs().sum() > 0, key
        assert_close(gradient, found[1][1][key], rtol=1e-4, atol=1e-4, msg=key)


@families
def test_the_encoders_states_are_taken_out_at_the_tokens_of_the_row(tmp_path, family):
    model, batch = adapted(tmp_path, family), batch_of()
    layers = packed_states(model, batch, layers=True).layers
    for row, (stack, texts, _) in enumerate(cases()):
        with active(model, [name for name in named(stack) if name == "l"]):
            embedded, own = read(model, stack, texts)
            wanted = model.get_encoder()(inputs_embeds=embedded[None], output_hidden_states=True).hidden_states
        place = slice(batch.offsets[row], batch.offsets[row] + len(request(texts)))
        for ours, theirs in zip(layers, wanted, strict=True):
            assert_close(ours[place], theirs[0][own], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@families
def test_padded_rows_are_the_rows_written_out(tmp_path, family, side):
    """On the left only where virtual tokens move the pads away, or positions are relative."""
    model, width = adapted(tmp_path, family, "float64"), max(len(request(texts)) for texts in TEXTS)
    ids, mask = (torch.zeros(len(STACKS), width, dtype=torch.long) for _ in range(2))
    for row, (stack, texts, _) in enumerate(cases()):
        whole = torch.tensor(request(texts))
        plain = family == "bart" and stack in (None, "l")
        place = slice(width - len(whole), width) if side == "left" and not plain else slice(0, len(whole))
        ids[row, place], mask[row, place] = whole, 1
    answers = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([model.config.decoder_start_token_id, *answer]) for answer in ANSWERS], batch_first=True
    )
    with rows(model, STACKS), divided(None):
        with pytest.raises(PlanError) as caught:
            model(ids, attention_mask=mask, decoder_input_ids=answers)
        assert caught.value.code == "E-ROWS-TEMPLATE"
    with rows(model, STACKS), divided(STARTS):
        found = model(ids, attention_mask=mask, decoder_input_ids=answers).logits
    for row, case in enumerate(cases()):
        assert_close(found[row, : len(case[2]) + 1], by_hand(model, *case), **CLOSE)


@families
def test_scores_are_those_of_rows_written_out(tmp_path, family):
    model = adapted(tmp_path, family)
    scored = [
        Scored([*request(a), *b], len(request(a)), Starts(starts))
        for a, b, starts in zip(TEXTS, ANSWERS, STARTS, strict=True)
    ]
    found = token_logprobs(model, scored, adapters=[named(stack) for stack in STACKS])
    for values, (stack, texts, answer), row in zip(found, cases(), scored, strict=True):
        logs = by_hand(model, stack, texts, answer)[:-1].log_softmax(-1)
        wanted = logs.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()
        assert values == pytest.approx(wanted, abs=1e-5)
        with active(model, stack):
            assert group_logprobs(model, [[row, row]])[0] == pytest.approx([sum(wanted)] * 2, abs=2e-5)


def written(model, stack, texts, limit):
    answer = []
    for _ in range(limit):
        answer.append(int(by_hand(model, stack, texts, answer)[-1].argmax()))
    return answer


@families
def test_generation_in_a_mixed_batch_is_decoding_of_rows_written_out(tmp_path, family):
    model = adapted(tmp_path, family, "float64")
    asked = [request(texts) for texts in TEXTS]
    wanted = [written(model, stack, texts, 5) for stack, texts, _ in cases()]
    found = generate(
        model, PadZero(), asked, rows=STACKS, starts=list(map(Starts, STARTS)), max_new_tokens=5, stop_ids=set()
    )
    assert found == wanted
    early = wanted[0][1]
    cut = [answer[: answer.index(early)] if early in answer else answer for answer in wanted]
    found = generate(
        model, PadZero(), asked, rows=STACKS, starts=list(map(Starts, STARTS)), max_new_tokens=5, stop_ids={early}
    )
    assert found == cut


@families
def test_beams_are_those_of_the_stock_model_on_the_row_written_out(tmp_path, family):
    model = adapted(tmp_path, family)
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    width = max(len(request(texts)) for texts in TEXTS)
    ids, mask = (torch.zeros(len(STACKS), width, dtype=torch.long) for _ in range(2))
    for row, texts in enumerate(TEXTS):
        ids[row, : len(request(texts))], mask[row, : len(request(texts))] = torch.tensor(request(texts)), 1
    with rows(model, STACKS, repeat=3), divided(STARTS):
        found = model.generate(ids, attention_mask=mask, **search)
    for row, (stack, texts, _) in enumerate(cases()):
        with active(model, [name for name in named(stack) if name == "l"]), torch.no_grad():
            embedded, _ = read(model, stack, texts)
            assert torch.equal(found[row], model.generate(inputs_embeds=embedded[None], **search)[0]), stack


@families
def test_checkpointing_leaves_the_gradients_as_they_are(tmp_path, family):
    found = []
    for checkpointing in (False, True):
        model = adapted(tmp_path / str(checkpointing), family, "float64").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = batch_of()
        torch.manual_seed(3)
        packed_hidden(model, batch)[learned(batch)].square().sum().backward()
        found.append({key: p.grad.clone() for key, p in model.keeptune.named_parameters()})
    for key, gradient in found[0].items():
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-5, msg=key)


@families
def test_a_file_keeps_the_template_and_taken_off_nothing_is_left(tmp_path, family):
    model = adapted(tmp_path, family)
    save_adapter(model, "d", tmp_path / "saved")
    fresh = load(tmp_path / "base", dtype="float32", device="cpu").model.requires_grad_(False)
    given = {"input_ids": torch.tensor([[5, 6]]), "decoder_input_ids": torch.tensor([[3]])}
    before = fresh(**given).logits
    load_adapter(fresh, tmp_path / "saved", "again", trainable=True)
    pairs = [row for row, starts in enumerate(STARTS) if starts]
    wanted = packed_hidden(model, batch_of(["d"] * len(STACKS)).select(pairs)[0])
    found = packed_hidden(fresh, batch_of(["again"] * len(STACKS)).select(pairs)[0])
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())
    with off(fresh):
        assert torch.equal(fresh(**given).logits, before)
    detach(fresh, "again")
    assert torch.equal(fresh(**given).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fresh.modules())
