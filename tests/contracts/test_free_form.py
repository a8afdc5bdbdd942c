"""Soft tokens between a decoder's texts and before its answer: every form of a batch against rows written out by hand.

The oracle builds `inputs_embeds` of one row, [P; E(a); R; E(b); Q; E(answer)], for the stock forward of transformers.
`test_free_form_seq2seq.py` has the encoder-decoders.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import keeptune
from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.data.encoder import Encoded
from keeptune.data.starts import Starts
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import pack
from keeptune.engine.best_continuation import best_logprobs
from keeptune.engine.book import detach
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden, packed_states
from keeptune.engine.request_parts import divided
from keeptune.engine.rows import active, off, rows
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import can_share_prompts, group_logprobs
from keeptune.methods import LoRA, Prompt, PTuning, SpotTune, load_adapter, save_adapter
from tests.contracts.test_methods import PadZero, padded
from tests.engine.adapted import moved
from tests.tiny_models import VOCABULARY, tiny_model

QUICK = ["llama", "gpt2"]
SLOW = ["mistral, window", "gemma", "gemma2", "gemma3_text", "phi3", "gpt_neox", "qwen3"]
decoders = pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])

TEMPLATES = {
    "a": "{soft:2} {text} {soft:3}",
    "b": "{text:question} {soft:1}",
    "c": "{text:premise} {soft:2} {text:hypothesis}",
    "d": "{soft:1} {text:premise} {soft:2} {text:hypothesis} {soft:1}",
}
CUTS = {"a": (2, 2), "b": (0, 0), "c": (0, 2), "d": (1, 3), "p": (4, 4)}
"""Where among the vectors of each the first text stands, and the second: the others are behind."""
STACKS = ["a", "b", "p", None, "l", ("p", "a"), ("l", "a", "b"), "a", "c", "d", ("p", "d", "a", "c"), ("l", "c")]
LENGTHS = [(5, 3), (3, 4), (4, 2), (6, 1), (2, 3), (1, 5), (7, 2), (3, 1), (5, 2), (4, 3), (6, 2), (2, 4)]
"""Of the request and the answer of each row."""
STARTS = [(), (), (), (), (2,), (), (4,), (), (3,), (1,), (4,), (1,)]
"""Of the second text: what names one text alone takes no notice of two."""
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def adapted(family="llama", **changes):
    """Two templates, a prompt and a LoRA, moved from their start."""
    model = tiny_model(family, **changes)
    for name, template in TEMPLATES.items():
        PTuning(template=template, encoder="none").attach(model, name, seed=len(name))
    Prompt(length=4, init="uniform").attach(model, "p")
    LoRA(rank=2).attach(model, "l")
    moved(model)
    return model


def texts(seed=5):
    """(request, answer) of each row."""
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in pair)
        for pair in LENGTHS
    ]


def named(stack):
    return (stack,) if isinstance(stack, str) else stack or ()


def around(model, stack):
    """P, R and Q of a stack, each in its order."""
    parts = [[torch.zeros(0, 32)] for _ in range(3)]
    for name in named(stack):
        if name != "l":
            vectors = next(model.keeptune.adapter(name).parameters())
            for own, part in zip(parts, vectors.tensor_split(CUTS[name]), strict=True):
                own.append(part)
    return [torch.cat(own) for own in parts]


def by_hand(model, stack, request, answer, starts=()):
    """Logits that predict the token behind each of request and answer, `[T, V]`: one row, written out."""
    front, between, behind = around(model, stack)
    embed = model.get_input_embeddings()
    text = embed(torch.tensor([*request, *answer], dtype=torch.long))
    end = len(request)
    middle = starts[0] if len(between) else end
    sequence = torch.cat([front, text[:middle], between, text[middle:end], behind, text[end:]])
    with active(model, [name for name in named(stack) if name == "l"]):
        logits = model(inputs_embeds=sequence[None], use_cache=False).logits[0]
    asked = [len(front) + place + (len(between) if place >= middle else 0) for place in range(end - 1)]
    last = len(front) + len(between) + end + len(behind) - 1
    return logits[[*asked, *range(last, len(sequence))]]


def cases():
    """(stack, request, answer, starts) of each row."""
    return [(stack, *pair, starts) for stack, pair, starts in zip(STACKS, texts(), STARTS, strict=True)]


def batch_of(stacks=STACKS):
    encoded = [
        Encoded("r", "task", (*asked, *said), (False,) * len(asked) + (True,) * len(said), starts=Starts(starts))
        for _, asked, said, starts in cases()
    ]
    return pack(encoded, adapters=[None if stack is None else named(stack) for stack in stacks])


@decoders
def test_packed_rows_are_the_rows_written_out(family):
    """Training: the answer begins with the first learned token of a row; others serve the rows beside it."""
    model = adapted(family)
    wanted = torch.cat([by_hand(model, *case) for case in cases()])
    assert_close(head_logits(model, packed_hidden(model, batch_of())), wanted, **CLOSE)


@decoders
def test_training_rows_together_gives_each_template_the_gradient_of_its_rows_written_out(family):
    found = []
    for together in (True, False):
        model = adapted(family).double()
        if together:
            batch = batch_of()
            logits = head_logits(model, packed_hidden(model, batch))
            torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum").backward()
        else:
            logits = [by_hand(model, *case)[len(case[1]) - 1 : -1] for case in cases()]
            answers = torch.tensor([token for _, answer in texts() for token in answer])
            torch.nn.functional.cross_entropy(torch.cat(logits), answers, reduction="sum").backward()
        found.append({key: p.grad for key, p in model.keeptune.named_parameters()})
    for key, gradient in found[0].items():
        assert gradient is not None, key
        assert gradient.abs().sum() > 0, key
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-5, msg=key)


def test_states_between_the_layers_are_taken_out_at_the_same_places():
    model = adapted("gpt2")
    layers = packed_states(model, batch_of(), layers=True).layers
    for row, (stack, request, answer, starts) in enumerate(cases()):
        with active(model, stack), divided([starts], [[len(request)]]):
            output = model(torch.tensor([[*request, *answer]]), output_hidden_states=True)
        start = sum(map(sum, LENGTHS[:row]))
        for ours, theirs in zip(layers, output.hidden_states, strict=True):
            assert_close(ours[start : start + sum(LENGTHS[row])], theirs[0], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@decoders
def test_padded_rows_with_labels_are_the_rows_written_out(family, side):
    model, width = adapted(family), max(map(sum, LENGTHS))
    ids, mask = (torch.zeros(len(STACKS), width, dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, (_, request, answer, _) in enumerate(cases()):
        whole = [*request, *answer]
        place = slice(width - len(whole), width) if side == "left" else slice(0, len(whole))
        ids[row, place], mask[row, place] = torch.tensor(whole), 1
        labels[row, place] = torch.tensor([-100] * len(request) + answer)
    with rows(model, STACKS), divided(STARTS):
        output = model(ids, attention_mask=mask, labels=labels)
    losses = []
    for row, (stack, request, answer, starts) in enumerate(cases()):
        wanted = by_hand(model, stack, request, answer, starts)
        assert_close(output.logits[row][mask[row].bool()], wanted, **CLOSE)
        losses.append(
            torch.nn.functional.cross_entropy(wanted[len(request) - 1 : -1], torch.tensor(answer), reduction="none")
        )
    assert_close(output.loss, torch.cat(losses).mean(), **CLOSE)


def options(seed=1):
    """Requests of 2 to 9 tokens with 2 to 8 answers each, some of which begin alike, and an answer alone."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    made = []
    for length, count in ((2, 2), (9, 8), (4, 1), (7, 3)):
        request, common, starts = draw(length), draw(1), (length // 2,)
        made.append(
            [Scored([*request, *common, *draw(1 + number % 3)], length, Starts(starts)) for number in range(count)]
        )
    return made


@decoders
def test_scores_are_those_of_rows_written_out_with_and_without_a_cache(family):
    model, groups = adapted(family), options()
    for stack in STACKS:
        with active(model, stack):
            cached = group_logprobs(model, groups)
            uncached = token_logprobs(model, [row for group in groups for row in group])
            best = best_logprobs(model, groups, [0] * len(groups))
            assert can_share_prompts(model, groups)
        flat = iter(uncached)
        for group, sums, likeliest in zip(groups, cached, best, strict=True):
            wanted = []
            for row in group:
                request, answer = row.tokens[: row.start], row.tokens[row.start :]
                with torch.no_grad():
                    logits = by_hand(model, stack, request, answer, row.starts.texts)[row.start - 1 : -1].log_softmax(
                        -1
                    )
                wanted.append(logits.gather(1, torch.tensor(answer)[:, None]).sum().item())
                assert sum(next(flat)) == pytest.approx(wanted[-1], abs=2e-5)
            assert sums == pytest.approx(wanted, abs=2e-5)
            assert max(likeliest) == pytest.approx(max(wanted), abs=2e-5)


@pytest.mark.parametrize("stack", ["a", "s"])
def test_where_rows_share_less_than_their_requests_no_cache_is_shared(stack):
    """Soft tokens behind the request, and what a policy decides by it, need the whole request.

    In float64, for the sums are of 14 nats, where float32 holds no more than the 1e-6 that is asked.
    """
    model = adapted().double()
    SpotTune(hidden=4).attach(model, "s", seed=2)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.keeptune.adapter("s").parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    groups = [[Scored([5, 6, 7, 8, 9], 3), Scored([5, 9, 10, 8, 9], 3)]]
    with active(model, stack):
        assert not can_share_prompts(model, groups)
        found = group_logprobs(model, groups)[0]
        alone = [sum(token_logprobs(model, [row])[0]) for row in groups[0]]
    assert found == pytest.approx(alone, abs=1e-6)


def written(model, stack, request, starts, limit, stop):
    """Greedy decoding by its definition, each step from the row written out."""
    answer = []
    for _ in range(limit):
        token = int(by_hand(model, stack, request, answer, starts)[-1].argmax())
        if token == stop:
            break
        answer.append(token)
    return answer


@decoders
def test_generation_with_a_cache_in_a_mixed_batch_is_decoding_of_rows_written_out(family):
    """Left padding, rows that leave the batch when they are done, and a window that is shorter than the row."""
    model, asked = adapted(family).double(), [request for request, _ in texts()]
    for stop in (2, written(model, *cases()[0][:2], (), 1, 2)[0]):
        wanted = [written(model, stack, request, starts, 8, stop) for stack, request, _, starts in cases()]
        assert (
            generate(
                model,
                PadZero(),
                asked,
                rows=STACKS,
                starts=list(map(Starts, STARTS)),
                max_new_tokens=8,
                stop_ids={stop},
            )
            == wanted
        )
    assert len({tuple(answer) for answer in wanted}) > 3


def searched(logits, width, limit):
    """Beam search by its definition; `logits` of a row that ends in an answer."""
    beams = [(0.0, [])]
    for _ in range(limit):
        grown = []
        for total, answer in beams:
            scores = logits(answer)[-1].log_softmax(-1)
            scores[2] = float("-inf")
            grown += [(total + score, [*answer, token]) for token, score in enumerate(scores.tolist())]
        beams = sorted(grown, key=lambda beam: -beam[0])[:width]
    return beams[0][1]


@decoders
def test_beams_of_transformers_are_those_of_rows_written_out(family):
    model, asked = adapted(family).double(), [request for request, _ in texts()]
    use_attention(model)  # the eager one of transformers gives NaN in float64 at pads on the left
    ids, mask = padded(asked)
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        with rows(model, STACKS, repeat=3), divided(STARTS):
            found = model.generate(ids, attention_mask=mask, eos_token_id=2, **search)[:, -4:].tolist()
        wanted = [
            searched(partial(by_hand, model, stack, request, starts=starts), 3, 4)
            for stack, request, _, starts in cases()
        ]
    assert found == wanted


@pytest.mark.parametrize("family", QUICK)
def test_checkpointing_leaves_the_gradients_as_they_are(family):
    found = []
    for checkpointing in (False, True):
        model = adapted(family, **({"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0} if family == "gpt2" else {}))
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = batch_of()
        logits = head_logits(model, packed_hidden(model, batch))
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        found.append({key: p.grad.clone() for key, p in model.keeptune.named_parameters()})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("family", QUICK)
def test_a_file_keeps_the_template_and_opens_for_training(tmp_path, family):
    model = adapted(family)
    save_adapter(model, "d", tmp_path)
    assert json.loads((tmp_path / "adapter.json").read_text())["settings"]["template"] == TEMPLATES["d"]
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "again", trainable=True)
    pairs = [row for row, starts in enumerate(STARTS) if starts]
    wanted = packed_hidden(model, batch_of(stacks=["d"] * len(STACKS)).select(pairs)[0])
    found = packed_hidden(fresh, batch_of(stacks=["again"] * len(STACKS)).select(pairs)[0])
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())


@pytest.mark.parametrize("family", QUICK)
def test_taken_off_the_base_is_bitwise_what_it_was(family):
    model, ids = tiny_model(family), torch.tensor([texts()[0][0]])
    before = model(ids).logits
    PTuning(template=TEMPLATES["a"]).attach(model)
    assert not torch.equal(model(ids).logits[:, -1], before[:, -1])
    with off(model):
        assert torch.equal(model(ids).logits, before)
    detach(model, "default")
    assert torch.equal(model(ids).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_virtual_token_takes_a_position():
    """With positions given from 3 on: P 3 4, the request 5 6 7, Q 8 9 10, the answer 11 12."""
    model = adapted("gpt2")
    request, answer = [5, 6, 7], [8, 9]
    front, _, behind = around(model, "a")
    text = model.get_input_embeddings()(torch.tensor([*request, *answer]))
    sequence = torch.cat([front, text[:3], behind, text[3:]])[None]
    with off(model):
        wanted = model(inputs_embeds=sequence, position_ids=torch.arange(3, 13)[None]).logits[0, [2, 3, 7, 8, 9]]
    with active(model, "a"), divided(answers=[[3]]):
        found = model(torch.tensor([[*request, *answer]]), position_ids=torch.arange(3, 8)[None]).logits[0]
    assert_close(found, wanted, **CLOSE)


def test_the_cost_counts_what_stands_behind():
    shape = ModelShape.from_config(tiny_model("llama").config.to_dict())
    found = PTuning(template="{soft:2} {text} {soft:3}", encoder="none").cost(shape)
    assert (found.trainable_parameters, found.stored_bytes, found.template_tokens) == (5 * 32, 4 * 5 * 32, 5)


def test_a_row_without_the_texts_of_its_template_is_refused_by_name():
    """Packed, padded and with a cache; a template that names one text reads a row of two as one."""
    model, ids = adapted(), torch.tensor([[5, 6, 7]])
    asked = Encoded("", "", (5, 6, 7), (False, False, True))
    attempts = [
        lambda: packed_hidden(model, pack([asked], adapters=[("c",)])),
        lambda: generate(model, PadZero(), [[5, 6, 7]], rows=["c"], max_new_tokens=2, stop_ids=set()),
        lambda: generate(
            model, PadZero(), [[5, 6, 7]], rows=["c"], starts=[Starts((1, 2))], max_new_tokens=2, stop_ids=set()
        ),
    ]
    for attempt in attempts:
        with pytest.raises(PlanError) as caught:
            attempt()
        assert caught.value.code == "E-ROWS-TEMPLATE"
        assert "prompt" in caught.value.fix
    with active(model, "a"):
        alone = model(ids).logits
        with divided([(1,)]):
            assert torch.equal(model(ids).logits, alone)


@pytest.mark.parametrize("template", ["c", "d"])
def test_a_plain_call_with_several_texts_is_refused_with_the_words_that_mend_it(template):
    """Who has never heard of `divided` reads of it, and what the message shows is right."""
    model, ids, mask = adapted(), torch.tensor([[0, 5, 6, 7, 8], [5, 6, 7, 8, 9]]), torch.ones(2, 5, dtype=torch.long)
    mask[0, 0] = 0
    calls = [
        lambda: model(ids, attention_mask=mask),
        lambda: model.generate(ids, attention_mask=mask, pad_token_id=0, max_new_tokens=2),
    ]
    with active(model, template):
        for call in calls:
            with pytest.raises(PlanError) as caught:
                call()
            assert caught.value.code == "E-ROWS-TEMPLATE"
            assert "2 texts, and a row of this batch has 1" in caught.value.what
            assert "keeptune.divided(texts=[[5], [8]])" in caught.value.fix
        with keeptune.divided(texts=[[2], [3]]):
            found = model(ids, attention_mask=mask).logits
    assert_close(found[0, 1:], by_hand(model, template, [5, 6, 7, 8], [], (2,)), **CLOSE)
    assert_close(found[1], by_hand(model, template, [5, 6, 7, 8, 9], [], (3,)), **CLOSE)


def test_two_templates_of_one_row_have_texts_alike():
    model = adapted()
    PTuning(template="{text:x} {soft:1} {text:y} {soft:1} {text:z}").attach(model, "e")
    with active(model, ["c", "e"]), divided([(1, 2)]), pytest.raises(PlanError) as caught:
        model(torch.tensor([[5, 6, 7]]))
    assert caught.value.code == "E-ROWS-TEMPLATE"
    with active(model, ["p", "e"]), divided([(1, 2)]):
        model(torch.tensor([[5, 6, 7]]))
