"""Who serves which row: equal to rows alone, in order, and never by accident."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.engine.rows import active, off, rows
from keeptune.engine.selection import Serving
from tests.engine.adapted import CLOSE, adapted
from tests.tiny_models import VOCABULARY, tiny_model

STACK = st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple)
CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STACK, st.integers(1, 4)), min_size=1, max_size=6))
def test_the_plan_serves_each_token_by_its_rows_stack_in_order(shape):
    stacks, lengths = zip(*shape, strict=True)
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    served = [[] for _ in range(offsets[-1])]
    for selection in Serving(stacks).plan(offsets, CPU):
        every = range(offsets[-1]) if selection.tokens is None else selection.tokens.tolist()
        assert selection.row_of_token().tolist() == [row for row in selection.rows for _ in range(lengths[row])]
        for token in every:
            served[token].append(selection.adapter)
    expected = [list(stack) for stack, length in shape for _ in range(length)]
    assert served == expected


def test_one_stack_for_all_rows_needs_no_indexing():
    plan = Serving([("a", "b")] * 3).plan([0, 2, 4, 6], CPU)
    assert [(part.adapter, part.tokens) for part in plan] == [("a", None), ("b", None)]


def test_nobody_serves_the_base():
    assert Serving([()] * 3).plan([0, 2, 4, 6], CPU) == []


def test_an_unknown_name_is_refused_with_the_nearest():
    model = adapted()
    with pytest.raises(PlanError, match=r"no adapter is called 'll'\. Did you mean"), rows(model, ["a", "ll"]):
        pass
    with pytest.raises(PlanError, match="Nothing is attached"), active(tiny_model("llama"), "a"):
        pass


def test_a_name_in_the_place_of_a_list_is_refused_as_what_it_is():
    with pytest.raises(PlanError, match="a list with one entry per row") as caught, rows(adapted(), "a"):
        pass
    assert caught.value.code == "E-ROWS-LIST"


def test_another_number_of_rows_is_refused():
    model = adapted()
    for assigned in (["l"], ["l", None, "l"], [None], ["a"]):
        with rows(model, assigned), pytest.raises(PlanError) as caught:
            model(torch.ones(2, 3, dtype=torch.long))
        assert caught.value.code == "E-ROWS-COUNT"


@pytest.mark.parametrize("assigned", [["l", None, "a"], ["l", "l", "l"]])
def test_rows_that_come_repeated_may_come_once_too_and_nothing_between(assigned):
    """As `generate` with beams runs an encoder, and then the decoder."""
    model, ids = adapted(), torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(5))
    with rows(model, assigned):
        expected = model(ids).logits
    with rows(model, assigned, repeat=2):
        assert_close(model(ids).logits, expected, **CLOSE)
        assert_close(model(ids.repeat_interleave(2, dim=0)).logits, expected.repeat_interleave(2, dim=0), **CLOSE)
        with pytest.raises(PlanError) as caught:
            model(ids[:2])
    assert caught.value.code == "E-ROWS-COUNT"


@pytest.mark.parametrize("stacks", [[("l",), ("l",)], [("l",), ("l", "a")]])
def test_gates_of_repeated_rows_are_those_of_each_row_once(stacks):
    gates = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    serving = Serving([stack for stack in stacks for _ in range(2)], gates={"l": gates}, repeat=2)
    (twice, *_), (once, *_) = serving.plan(range(0, 21, 5), CPU), serving.plan([0, 5, 10], CPU)
    assert torch.equal(twice.gates, gates)
    assert torch.equal(once.gates, gates[::2])


def test_an_adapter_twice_on_one_row_is_refused():
    with pytest.raises(PlanError, match="twice"), rows(adapted(), [("l", "l")]):
        pass


def test_blocks_nest_and_end_even_after_an_error():
    model = adapted()
    book = model.keeptune
    with active(model, "a"):
        with off(model):
            assert book.serving.shared == ()
        with pytest.raises(ZeroDivisionError), active(model, "b"):
            raise ZeroDivisionError
        assert book.serving.shared == ("a",)
    assert book.serving.shared == ("l",)


def test_a_base_without_adapters_can_be_named_in_rows():
    model = tiny_model("llama")
    with rows(model, [None, None]), off(model):
        model(torch.ones(2, 3, dtype=torch.long))


def test_a_copy_of_the_model_has_its_own_rows():
    model = adapted()
    twin = copy.deepcopy(model)
    tokens = torch.randint(3, VOCABULARY, (2, 5))
    with active(model, "a"):
        with off(twin):
            assert torch.equal(twin(tokens).logits, tiny_model("llama")(tokens).logits)
        expected = model(tokens).logits
    with active(twin, "a"):
        assert torch.equal(twin(tokens).logits, expected)


def test_a_plan_made_while_generating_serves_a_training_step():
    model = adapted()
    tokens = torch.randint(3, VOCABULARY, (2, 5))
    with rows(model, ["l", None]):
        with torch.inference_mode():
            before = model(tokens).logits
        logits = model(tokens).logits
        logits.sum().backward()
    assert_close(logits.detach(), before.clone(), **CLOSE)
