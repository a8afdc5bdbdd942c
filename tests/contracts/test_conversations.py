"""Soft tokens of a template before each answer of a conversation, in every form of a batch.

The oracle builds `inputs_embeds` of one row, [P; E(x); Q; E(y); E(x'); Q; E(y')], for the stock forward of
transformers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.data.encoder import Encoded
from keeptune.data.starts import LOST, Starts
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import pack
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.request_parts import divided
from keeptune.engine.rows import active, rows
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import SpotTune
from tests.contracts.test_free_form import CLOSE, PadZero, adapted, around, named, searched
from tests.contracts.test_methods import padded
from tests.tiny_models import VOCABULARY, tiny_model

QUICK = ["llama", "gpt2"]
SLOW = ["mistral, window", "gemma2", "gemma3_text", "phi3", "gpt_neox", "qwen3"]
decoders = pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
STACKS = ["a", "b", "p", None, ("p", "a"), ("l", "a", "b"), "a", "d"]
TURNS = [(3, 2, 2, 1, 1, 2), (2, 1, 3, 2), (2, 2, 1, 2), (4, 1, 2, 2), (1, 2, 1, 1), (2, 3, 1, 2, 2, 1), (3, 2)]
TURNS += [(4, 2, 3, 1)]
"""Tokens of each row's requests and answers, in turns."""
TEXTS = [(), (), (), (), (), (), (), (7,)]
"""Where the second text of a row begins, in its second request."""


def conversations(seed=11):
    """Of each row its requests and answers, in turns."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths] for lengths in TURNS]


def flat(turns):
    return [token for turn in turns for token in turn]


def begins(turns):
    """Where each answer begins, also the one that comes behind a request."""
    return tuple(len(flat(turns[:number])) for number in range(1, len(turns) + 1, 2))


def by_hand(model, stack, turns, texts=()):
    """Logits that predict the token behind each of the row, `[T, V]`: one row, written out."""
    front, between, behind = around(model, stack)
    answers, tokens = begins(turns), flat(turns)
    embedded = model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))
    parts, asked, length = [front], [], len(front)
    for place in range(len(tokens) + 1):
        block = behind if place in answers else between if place in texts and len(between) else front[:0]
        parts.append(block)
        length += len(block)
        if place in answers:
            asked[-1] = length - 1
        if place < len(tokens):
            parts.append(embedded[place : place + 1])
            length += 1
            asked.append(length - 1)
    with active(model, [name for name in named(stack) if name == "l"]):
        return model(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0][asked]


def cases():
    """(stack, turns, texts) of each row."""
    return list(zip(STACKS, conversations(), TEXTS, strict=True))


def row_of(turns, texts=(), *, learned=None, said=True):
    """As it is encoded; all answers are learned, or those of `learned`."""
    answers = range(1, len(turns), 2)
    mask = [number in (answers if learned is None else learned) for number, turn in enumerate(turns) for _ in turn]
    return Encoded("", "", tuple(flat(turns)), tuple(mask), starts=Starts(texts, begins(turns) if said else ()))


def batch_of(encoded, stacks=STACKS):
    return pack(encoded, adapters=[None if stack is None else named(stack) for stack in stacks])


def test_the_oracle_has_the_template_before_each_answer():
    """[P P x x Q Q Q y x Q Q Q y]: what predicts y is the last of Q."""
    model = adapted()
    front, _, behind = around(model, "a")
    x, y, z, w = (model.get_input_embeddings()(torch.tensor(ids)) for ids in ([5, 6], [7], [8], [9]))
    sequence = torch.cat([front, x, behind, y, z, behind, w])[None]
    with active(model, None):
        wanted = model(inputs_embeds=sequence, use_cache=False).logits[0, [2, 6, 7, 11, 12]]
    assert_close(by_hand(model, "a", [[5, 6], [7], [8], [9]]), wanted)


@pytest.mark.parametrize("said", [True, False])
@decoders
def test_packed_rows_are_the_rows_written_out(family, said):
    """Each run of learned tokens is an answer, and rows may say so."""
    model = adapted(family)
    wanted = torch.cat([by_hand(model, *case) for case in cases()])
    encoded = [row_of(turns, texts, said=said) for _, turns, texts in cases()]
    if not said:
        encoded[-1] = row_of(*cases()[-1][1:])
    assert_close(head_logits(model, packed_hidden(model, batch_of(encoded))), wanted, **CLOSE)


@decoders
def test_a_conversation_is_the_sum_of_its_requests(family):
    """Loss and gradients of all answers in one row, and of a row for each answer in which the others are only read."""
    found = []
    for together in (True, False):
        model = adapted(family).double()
        encoded, stacks = [], []
        for stack, turns, texts in cases():
            if together:
                encoded.append(row_of(turns, texts))
                stacks.append(stack)
                continue
            for number in range(1, len(turns), 2):
                upto = turns[: number + 1]
                own = tuple(text for text in texts if text < len(flat(upto)))
                if stack == "d" and not own:  # its first request has one text: the row's template is of the last
                    continue
                encoded.append(row_of(upto, own, learned=(number,)))
                stacks.append(stack)
        if together:
            encoded[-1] = row_of(*cases()[-1][1:], learned=(3,))
        batch = batch_of(encoded, stacks)
        loss = cross_entropy(head_logits(model, packed_hidden(model, batch)), batch.targets, reduction="sum")
        loss.backward()
        found.append(
            (loss.detach(), {key: p.grad for key, p in model.keeptune.named_parameters() if p.grad is not None})
        )
    assert_close(found[0][0], found[1][0], **CLOSE)
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        assert_close(gradient, found[1][1][key], **CLOSE, msg=key)


@pytest.mark.parametrize("side", ["left", "right"])
@decoders
def test_padded_rows_with_labels_are_the_rows_written_out(family, side):
    """What a training loop of one's own gives a model: ids, mask and labels, a run of which is an answer."""
    model, found = adapted(family), cases()[:-1]
    width = max(len(flat(turns)) for _, turns, _ in found)
    ids, mask = (torch.zeros(len(found), width, dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, (_, turns, _) in enumerate(found):
        whole = torch.tensor(flat(turns))
        place = slice(width - len(whole), width) if side == "left" else slice(0, len(whole))
        ids[row, place], mask[row, place] = whole, 1
        labels[row, place] = torch.tensor(row_of(turns).labels)
    with rows(model, STACKS[:-1]):
        output = model(ids, attention_mask=mask, labels=labels)
    for row, case in enumerate(found):
        assert_close(output.logits[row][mask[row].bool()], by_hand(model, *case), **CLOSE)


def asked():
    """Every row up to its last request, and what it says of it."""
    found = [(stack, turns[:-1], texts) for stack, turns, texts in cases()]
    return found, [Starts(texts, begins(turns)) for _, turns, texts in found]


def written(model, stack, turns, texts, limit):
    """Greedy decoding by its definition, each step from the row written out."""
    answer = []
    for _ in range(limit):
        answer.append(int(by_hand(model, stack, [*turns, answer] if answer else turns, texts)[-1].argmax()))
    return answer


@decoders
def test_generation_of_the_next_answer_is_decoding_of_rows_written_out(family):
    """Left padding, a cache, rows that leave the batch when they are done."""
    model = adapted(family).double()
    found, starts = asked()
    wanted = [written(model, *case, 5) for case in found]
    prompts, early = [flat(turns) for _, turns, _ in found], wanted[0][1]
    for stop in (set(), {early}):
        cut = [answer[: answer.index(early)] if stop and early in answer else answer for answer in wanted]
        assert generate(model, PadZero(), prompts, rows=STACKS, starts=starts, max_new_tokens=5, stop_ids=stop) == cut


@decoders
def test_beams_of_transformers_after_earlier_answers_are_those_of_each_row_alone(family):
    model = adapted(family).double()
    use_attention(model)
    found, starts = asked()
    ids, mask = padded([flat(turns) for _, turns, _ in found])
    search = {"num_beams": 3, "max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    said = divided([one.texts for one in starts], [one.answers for one in starts])
    with torch.no_grad(), rows(model, STACKS, repeat=3), said:
        together = model.generate(ids, attention_mask=mask, eos_token_id=2, **search)[:, -3:].tolist()
    assert together == [
        searched(
            lambda answer, case=case: by_hand(model, case[0], [*case[1], answer] if answer else case[1], case[2]), 3, 3
        )
        for case in found
    ]


@decoders
def test_the_next_request_goes_on_from_the_cache_of_the_turns_before_it(family):
    """Both requests padded on the left, an answer padded on the right, then one token more of the next answer.

    A window of transformers counts columns, so that pads inside a row cost it tokens, without adapters too: there each
    row goes alone.
    """
    model, stacks = adapted(family), ["a", "p", None, "b", ("p", "a")]
    generator = torch.Generator().manual_seed(2)
    turns = [
        [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
        for lengths in ((3, 2, 4, 1), (1, 3, 2, 1), (2, 1, 1, 1), (4, 3, 3, 1), (2, 2, 4, 1))
    ]
    together = [list(zip(stacks, turns, strict=True))]
    if getattr(model.config, "sliding_window", None):
        together = [[one] for one in together[0]]
    for batch in together:
        for (stack, own), found in zip(batch, in_turns(model, *zip(*batch, strict=True)), strict=True):
            assert_close(found, by_hand(model, stack, own), **CLOSE, msg=str(stack))


def in_turns(model, stacks, turns):
    """Logits of each row's tokens, `[T, V]`: a request, its answer token by token, the next request, and one token."""
    first, first_mask = padded([own[0] for own in turns])
    second, second_mask = (part.flip(1) for part in padded([own[1][::-1] for own in turns]))
    third, third_mask = padded([own[2] for own in turns])
    parts = [first, *second.split(1, 1), third, torch.tensor([own[3] for own in turns])]
    masks = [first_mask, *second_mask.split(1, 1), third_mask, torch.ones(len(turns), 1, dtype=torch.long)]
    answers, cache, found = [begins(own) for own in turns], None, []
    with torch.no_grad(), rows(model, list(stacks)):
        for number, ids in enumerate(parts):
            last = number >= len(parts) - 2
            with divided(answers=answers if last else [own[:1] for own in answers]):
                output = model(
                    ids,
                    attention_mask=torch.cat(masks[: number + 1], dim=1),
                    past_key_values=cache,
                    use_cache=True,
                )
            cache = output.past_key_values
            found.append(output.logits)
    logits, real = torch.cat(found, dim=1), torch.cat(masks, dim=1).bool()
    return [own[which] for own, which in zip(logits, real, strict=True)]


def test_a_next_request_that_nobody_told_from_an_answer_is_refused():
    model, ids = adapted(), torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad(), active(model, "a"):
        cache = model(ids[:, :2], use_cache=True).past_key_values
        with pytest.raises(PlanError) as caught:
            model(ids[:, 2:4], past_key_values=cache)
        assert caught.value.code == "E-PROMPT-TURN"
        assert "divided" in caught.value.fix
        model(ids[:, 2:3], past_key_values=cache)  # one token more of the answer
    with torch.no_grad(), active(model, "p"):
        cache = model(ids[:, :2], use_cache=True).past_key_values
        found = model(ids[:, 2:], past_key_values=cache).logits
        assert_close(found, model(ids).logits[:, 2:], **CLOSE)


def test_an_answer_that_the_chat_template_hides_is_refused_where_it_matters():
    model = adapted()
    lost = Encoded("", "", (5, 6, 7, 8), (False,) * 3 + (True,), starts=Starts((), (LOST, 3)))
    packed_hidden(model, pack([lost], adapters=[("p",)]))
    with pytest.raises(PlanError) as caught:
        packed_hidden(model, pack([lost], adapters=[("a",)]))
    assert caught.value.code == "E-ROWS-TEMPLATE"
    assert "answer" in caught.value.what


@decoders
def test_scores_behind_earlier_answers_are_those_of_rows_written_out_with_and_without_a_cache(family):
    model = adapted(family)
    found, starts = asked()
    for (stack, turns, texts), said in zip(found, starts, strict=True):
        options = [[7, 8], [9], [7, 10, 11]]
        group = [Scored([*flat(turns), *option], len(flat(turns)), said) for option in options]
        wanted = []
        for option in options:
            with torch.no_grad():
                logits = by_hand(model, stack, [*turns, option], texts)[len(flat(turns)) - 1 : -1].log_softmax(-1)
            wanted.append(logits.gather(1, torch.tensor(option)[:, None]).sum().item())
        with active(model, stack):
            assert group_logprobs(model, [group])[0] == pytest.approx(wanted, abs=2e-5)
            assert [sum(values) for values in token_logprobs(model, group)] == pytest.approx(wanted, abs=2e-5)


def test_checkpointing_leaves_the_gradients_as_they_are():
    found = []
    for checkpointing in (False, True):
        model = adapted().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = batch_of([row_of(turns, texts) for _, turns, texts in cases()])
        cross_entropy(head_logits(model, packed_hidden(model, batch)), batch.targets).backward()
        found.append({key: p.grad.clone() for key, p in model.keeptune.named_parameters() if p.grad is not None})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("padded_by", [0, 2])
@pytest.mark.parametrize("stack", ["a", "p", None])
def test_generate_of_transformers_goes_on_from_its_own_cache(stack, padded_by):
    """Given the new tokens alone; given all, it would leave out some more than are cached, and is refused."""
    model, ids = adapted(), torch.tensor([[5, 6, 7, 8, 9]] * 2)
    mask, new = torch.ones_like(ids), torch.tensor([[10, 11, 12, 13, 14, 15]] * 2)
    mask[0, :padded_by] = 0
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    with torch.no_grad(), active(model, stack):
        first = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **settings)
        whole = torch.cat([first.sequences, new], dim=1)
        every = torch.cat([mask, torch.ones(2, 9, dtype=torch.long)], dim=1)
        counts = zip(mask.sum(dim=1).tolist(), every.sum(dim=1).tolist(), strict=True)
        with divided(answers=[list(pair) for pair in counts]):
            wanted = model.generate(whole, attention_mask=every, **settings)[:, -3:]
            if stack:
                with pytest.raises(PlanError) as caught:
                    model.generate(whole, attention_mask=every, past_key_values=first.past_key_values, **settings)
                assert caught.value.code == "E-PROMPT-MASK"
            uncached = whole[:, 7:]  # the last token that was written is not in the cache
            found = model.generate(uncached, attention_mask=every, past_key_values=first.past_key_values, **settings)
    assert torch.equal(found[:, -3:], wanted)


@pytest.mark.parametrize("family", QUICK)
def test_a_policy_decides_for_a_conversation_by_its_first_request(family):
    """In a row that is learned, a prompt with earlier answers, scoring, and behind the cache of the turns before."""
    model = tiny_model(family).double()
    SpotTune(hidden=4).attach(model, "s", seed=2)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.keeptune.adapter("s").parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    turns = [own for own in conversations() if len(own) > 2]
    learned = [row_of(own) for own in turns]
    together = head_logits(model, packed_hidden(model, pack(learned))).split([len(flat(own)) for own in turns])
    for own, wanted in zip(turns, together, strict=True):
        first, asked, ids = len(own[0]), flat(own[:-1]), torch.tensor([flat(own)])
        with torch.no_grad(), divided(answers=[[first]]):
            assert_close(model(ids).logits[0], wanted, **CLOSE)
        with torch.no_grad(), divided(answers=[begins(own)]):
            assert_close(model(ids[:, : len(asked)]).logits[0], wanted[: len(asked)], **CLOSE)
        with torch.no_grad():
            cache = model(ids[:, :first], use_cache=True).past_key_values
            rest = model(ids[:, first:], past_key_values=cache).logits[0]
        assert_close(rest, wanted[first:], **CLOSE)
        starts = Starts((), begins(own[:-1]))
        [found] = token_logprobs(model, [Scored(flat(own), len(asked), starts)])
        values = wanted[len(asked) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(own[-1])[:, None])[:, 0]
        assert found == pytest.approx(values.tolist(), abs=1e-5)
        written = generate(model, PadZero(), [asked], starts=[starts], max_new_tokens=1, stop_ids=set())
        assert written == [[int(wanted[len(asked) - 1].argmax())]]
    lost = row_of(turns[0])
    with pytest.raises(PlanError) as caught:
        packed_hidden(model, pack([replace(lost, starts=Starts((), (LOST, 5)))]))
    assert caught.value.code == "E-ROWS-TURNS"
