"""Rows that share their beginning, against the same rows one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from keeptune.data import beginnings
from keeptune.data.encode import Encoded
from keeptune.engine.batch import IGNORED, pack
from keeptune.engine.head import head_of
from keeptune.engine.native import kernels as native
from keeptune.engine.packed import packed_hidden
from keeptune.engine.shared_rows import can_share, pack_shared
from keeptune.losses.next_token import next_token
from keeptune.methods import LoRA, Prefix, Prompt
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHARING = [name for name in CONFIGS if "dynamic" not in name and "longrope" not in name]


def rows(*groups: tuple[int, tuple[int, ...]], seed: int = 0) -> list[Encoded]:
    """For each (prompt length, answer lengths) one row per answer."""
    generator, made = torch.Generator().manual_seed(seed), []
    for prompt_length, answers in groups:
        prompt = torch.randint(3, VOCABULARY, (prompt_length,), generator=generator).tolist()
        for answer_length in answers:
            answer = torch.randint(3, VOCABULARY, (answer_length,), generator=generator).tolist()
            learned = (False,) * prompt_length + (True,) * answer_length
            made.append(Encoded(f"r{len(made)}", "task", (*prompt, *answer), learned))
    return made


def shuffled(given: list[Encoded]) -> list[Encoded]:
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(1)).tolist()
    return [given[place] for place in order]


def adapted(name: str):
    model = tiny_model(name)
    LoRA(rank=4).attach(model, "ana")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def gradients(model, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    loss = next_token(packed_hidden(model, batch), batch.targets, head_of(model))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.keeptune.parameters()]


@pytest.mark.parametrize("name", SHARING)
def test_loss_and_gradients_are_those_of_the_rows_alone(name):
    given = shuffled(rows((12, (5, 9, 5, 2)), (10, (3,)), (9, (4, 6))))
    model = adapted(name)
    batch = pack_shared(given)
    whole = pack(given)
    assert len(batch.tokens) == len(whole.tokens) - 3 * 11 - 8
    assert batch.learned == whole.learned
    loss, own = gradients(model, batch)
    expected_loss, expected = gradients(model, whole)
    assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(own, expected, strict=True):
        assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert max(float(wanted.abs().max()) for wanted in expected) > 1e-2


def test_each_row_meets_its_own_answer_and_no_other():
    given = rows((12, (5, 7)))
    other = [given[0], replace(given[1], tokens=(*given[1].tokens[:-1], 3 + (given[1].tokens[-1] - 2) % 50))]
    model = adapted("llama")
    states = []
    for pair in (given, other):
        batch = pack_shared(pair)
        with torch.no_grad():
            states.append(packed_hidden(model, batch)[: batch.offsets[2]])
    assert_close(states[0], states[1], rtol=0, atol=0)


def test_bfloat16_sees_the_same_answers():
    given = rows((20, (5, 9, 5, 2)))
    model = adapted("llama").to(torch.bfloat16)
    loss, _ = gradients(model, pack_shared(given))
    expected, _ = gradients(model, pack(given))
    assert_close(loss, expected, rtol=2e-2, atol=0)


def test_without_a_shared_beginning_the_batch_is_the_usual_one():
    given = rows((12, (5,)), (10, (3,)))
    batch = pack_shared(given)
    assert batch.parents is None
    assert torch.equal(batch.tokens, pack(given).tokens)
    short = rows((beginnings.SHORTEST, (4, 4)))
    assert pack_shared(short).parents is None


def behind(row: Encoded, beginning: tuple[int, ...]) -> Encoded:
    """The row with more tokens before it, from which nothing is learned."""
    return replace(row, tokens=(*beginning, *row.tokens), learned=(*(False,) * len(beginning), *row.learned))


def instructed() -> list[Encoded]:
    """Rows behind one instruction: two of them with an example behind it, two with one prompt; and a row without."""
    instruction, example = tuple(range(20, 32)), tuple(range(50, 59))
    apart = rows((3, (5,)), (9, (4,)), (14, (6,)), (7, (2,)), (12, (3, 8)))
    return [
        behind(apart[0], instruction),
        behind(apart[1], instruction + example),
        apart[2],
        behind(apart[3], instruction + example),
        *(behind(row, instruction) for row in apart[4:]),
    ]


def test_an_instruction_is_one_segment_and_what_some_rows_share_behind_it_another():
    given = instructed()
    batch = pack_shared(given)
    assert batch.parents == [-1, 0, 0, 2, 2, 0, 5, 5, -1]
    assert batch.lengths == [12, 8, 9, 13, 9, 11, 4, 9, 20]
    whole = {(row.id, tuple(row.tokens)) for row in given}
    for segment, (parent, name) in enumerate(zip(batch.parents, batch.ids, strict=True)):
        if segment not in batch.parents:
            part, _ = batch.select([segment])
            assert (name, tuple(part.tokens.tolist())) in whole
            assert part.positions.tolist() == list(range(len(part.tokens)))
            assert parent < segment
    assert batch.learned == pack(given).learned


def test_rows_that_each_go_on_where_another_ends_make_a_chain():
    long = tuple(range(3, 63))
    given = [
        Encoded(f"r{length}", "task", (*long[:length], 2, 2), (False,) * (length + 1) + (True,))
        for length in (60, 20, 40)
    ]
    batch = pack_shared(given)
    assert batch.parents == [-1, 0, 1, 1, 0]
    assert batch.lengths == [20, 20, 22, 2, 2]
    many = [Encoded(f"r{n}", "task", (*long[: n % 60], 2), (False,) * (n % 60) + (True,)) for n in range(3_000)]
    assert sum(pack_shared(many).targets != IGNORED) == sum(pack(many).targets != IGNORED)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "mistral, window", "mistral, no window"])
@pytest.mark.parametrize("kernels", [True, False])
def test_behind_an_instruction_loss_and_gradients_are_those_of_the_rows_alone(name, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(native, "compiled", lambda _: None)
    given, model = instructed(), adapted(name)
    loss, own = gradients(model, pack_shared(given))
    expected_loss, expected = gradients(model, pack(given))
    assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(own, expected, strict=True):
        assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_other_sources_or_adapters_share_nothing():
    one, two = rows((12, (5, 7)))
    assert pack_shared([one, replace(two, source="replay")]).parents is None
    assert pack_shared([one, two], adapters=[("ana",), None]).parents is None
    assert pack_shared([one, two], adapters=[("ana",), ("ana",)]).parents == [-1, 0, 0]


def test_a_chosen_row_brings_its_beginning_along():
    given = rows((12, (5, 7)), (10, (3, 4)))
    batch = pack_shared(given)
    part, index = batch.select([5])
    assert part.parents == [-1, 0]
    assert part.tokens.tolist() == list(given[3].tokens)
    assert part.positions.tolist() == list(range(14))
    assert torch.equal(batch.tokens[index], part.tokens)
    assert int((part.targets != IGNORED).sum()) == 4


def test_rows_that_teach_nothing_stay_whole():
    one = Encoded("r0", "task", tuple(range(3, 20)), (False,) * 17)
    assert pack_shared([one, one]).parents is None


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_an_encoder_shares_nothing(kind):
    assert not can_share(tiny_model(kind))


@pytest.mark.parametrize("method", [Prefix(length=3), Prompt(length=3)])
def test_what_acts_on_a_whole_row_forbids_sharing(method):
    model = tiny_model("llama")
    assert can_share(model)
    method.attach(model)
    assert not can_share(model)
