"""Low-rank updates of a mixed batch, against each row alone."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.engine import banks
from keeptune.engine.banks import Bank
from keeptune.engine.generation import generate
from keeptune.engine.rows import off, rows
from keeptune.engine.selection import Serving
from keeptune.methods import IA3, LoRA
from tests.engine.adapted import CLOSE, moved
from tests.engine.test_generation import Pads, settings
from tests.tiny_models import VOCABULARY, tiny_model

# A stack reads one input twice; ranks differ, so that banks are filled up; two rows share an adapter.
STACKS = ["one", None, ("two", "one"), "three", "one", None]


def mixed(family="llama", dtype=torch.float32):
    model = tiny_model(family).to(dtype)
    for number, name in enumerate(("one", "two", "three")):
        LoRA(rank=2 + number, alpha=3 + number, dropout=0.5).attach(model, name)
    return moved(model).eval()


def tokens(width):
    return torch.randint(3, VOCABULARY, (len(STACKS), width), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def made(monkeypatch):
    """How many banks were made."""
    found, real = [], Bank.of.__func__
    monkeypatch.setattr(Bank, "of", classmethod(lambda cls, *given: found.append(1) or real(cls, *given)))
    return found


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_each_row_is_served_as_if_it_were_alone(family, width, mode, made):
    model, ids = mixed(family), tokens(width)
    with mode(), rows(model, STACKS):
        together = model(ids, use_cache=False).logits
    assert bool(made) == (width == 1)
    for number, stack in enumerate(STACKS):
        with mode(), rows(model, [stack]):
            alone = model(ids[number : number + 1], use_cache=False).logits
        assert_close(together[number : number + 1], alone, **CLOSE)


def test_as_many_tokens_as_rows_are_not_one_token_each(made):
    """A packed batch may have a row without tokens."""
    module, model = torch.nn.Linear(32, 32), mixed()
    entries = next(slot.entries for place, slot in model.keeptune.slots.items() if place.path.endswith("q_proj"))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    plan = Serving([("one",), ("two",), ("three",)]).plan([0, 2, 2, 3], torch.device("cpu"))
    with torch.no_grad():
        found = banks.added(plan, entries, x, module(x))
        alone = [
            module(x)[t] + entries[name][0].delta(x[t], None, None) for t, name in enumerate(("one", "one", "three"))
        ]
    assert not made
    assert_close(found, torch.stack(alone), **CLOSE)


@pytest.mark.parametrize("width", [1, 4])
def test_a_row_of_the_base_gets_the_base_bit_by_bit(width):
    model, ids = mixed(), tokens(width)
    base = [number for number, stack in enumerate(STACKS) if stack is None]
    with torch.no_grad():
        with off(model):
            expected = model(ids, use_cache=False).logits
        with rows(model, STACKS):
            assert torch.equal(model(ids, use_cache=False).logits[base], expected[base])


def test_in_bfloat16_an_update_is_computed_in_float32_and_rounded_once():
    model, ids = mixed(dtype=torch.bfloat16), tokens(1)
    with torch.no_grad():
        with rows(model, STACKS):
            found = model(ids, use_cache=False).logits
        exact = mixed().double()
        for name, parameter in exact.named_parameters():
            parameter.copy_(model.get_parameter(name))
        with rows(exact, STACKS):
            wanted = exact(ids, use_cache=False).logits
        each = [one_alone(model, ids, number) for number in range(len(STACKS))]
    assert (found.double() - wanted).norm() <= 1.1 * (torch.cat(each).double() - wanted).norm()


def one_alone(model, ids, number):
    with rows(model, [STACKS[number]]):
        return model(ids[number : number + 1], use_cache=False).logits


def test_a_bank_is_made_once_for_many_steps_and_again_when_a_factor_is_written(made):
    model, ids = mixed(), tokens(1)
    with torch.no_grad(), rows(model, STACKS):
        first = model(ids, use_cache=False).logits
        places = len(made)
        assert places == len(model.keeptune.slots)
        assert torch.equal(model(ids, use_cache=False).logits, first)
        assert len(made) == places
        factors = (
            p for name, p in model.named_parameters() if "adapter-one" in name and "v_proj" in name and "lora_B" in name
        )
        next(factors).mul_(2)
        changed = model(ids, use_cache=False).logits
    assert len(made) == places + 1
    assert not torch.equal(changed[0], first[0])
    assert torch.equal(changed[3], first[3])


def test_where_something_else_serves_a_map_or_gradients_are_taken_adapters_go_one_after_another(made):
    model, ids = mixed(), tokens(1)
    with rows(model, STACKS):
        expected = model(ids, use_cache=False).logits
    expected.sum().backward()
    IA3().attach(model, "four")
    moved(model)
    assert not made
    stacks = ["four", *STACKS[1:]]
    with torch.no_grad(), rows(model, stacks):
        together = model(ids, use_cache=False).logits
        for number, stack in enumerate(stacks):
            with rows(model, [stack]):
                assert_close(together[number], model(ids[number : number + 1], use_cache=False).logits[0], **CLOSE)
    assert made, "maps that LoRA alone serves have banks"


def test_who_writes_many_tokens_makes_a_bank_for_each_company_of_rows(made, monkeypatch):
    model = mixed()
    prompts = [[3 + number] * (2 + number) for number in range(len(STACKS))]
    written = generate(model, Pads(), prompts, rows=STACKS, **settings(stop_ids=set()))
    assert [len(answer) for answer in written] == [9] * len(STACKS)
    assert len(made) == len(model.keeptune.slots)
    monkeypatch.setattr(banks, "added", lambda *_: None)
    assert generate(model, Pads(), prompts, rows=STACKS, **settings(stop_ids=set())) == written
