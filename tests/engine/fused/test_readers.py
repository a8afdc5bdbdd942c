"""A last layer that runs over what is read, against the whole layer: the same states there, the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from keeptune.engine.batch import IGNORED, PackedBatch, pack
from keeptune.engine.even import LEAST, even_size
from keeptune.engine.fused.readers import MOST, readers_of
from keeptune.engine.head import head_of
from keeptune.engine.kernels import multiplying
from keeptune.engine.native import kernels as native
from keeptune.engine.packed import packed_hidden, packed_states
from keeptune.engine.rows import active, stack_of
from keeptune.engine.segments import segments
from keeptune.engine.shared_rows import pack_shared
from keeptune.engine.trunk import from_trunk, trunk_states
from keeptune.losses import Loss
from keeptune.losses.next_token import next_token
from keeptune.methods import IA3, DoRA, Prompt, attach
from keeptune.stages._step import View
from tests.engine.adapted import moved
from tests.engine.fused.test_body import FUSED, STACKS, adapted
from tests.engine.test_packed import LENGTHS, rows_of
from tests.flop_count import FlopCount
from tests.stages.test_preference_losses import pairs
from tests.tiny_models import tiny_model

LAST_LAYER = "model.layers.1"


def read(batch: PackedBatch) -> torch.Tensor:
    return (batch.targets != IGNORED).nonzero()[:, 0]


def ran(model, batch: PackedBatch):
    """States where targets are, and the gradients of a loss there."""
    model.zero_grad()
    torch.manual_seed(3)
    hidden = packed_hidden(model, batch)
    next_token(hidden, batch.targets, head_of(model)).backward()
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model, batch: PackedBatch, tolerance: float = 1e-5) -> None:
    places = read(batch)
    hidden, gradients = ran(model, batch)
    own, found = ran(model, batch.read_at(places))
    assert model.body_path == "fused"
    others = torch.ones(len(hidden), dtype=torch.bool).index_fill(0, places, False)
    assert own[others].isnan().all(), "nobody asked for these"
    assert others.any()
    assert_close(own[places], hidden[places], rtol=tolerance, atol=tolerance)
    assert found.keys() == gradients.keys() != set()
    assert any(name.replace("/", ".").count(LAST_LAYER) for name in found)
    for name, wanted in gradients.items():
        assert_close(found[name], wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()), msg=name)


@pytest.mark.parametrize("name", FUSED)
def test_states_and_gradients_are_those_of_the_whole_layer(name):
    assert_same(adapted(name), pack(rows_of(LENGTHS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 5, 33, 53, 59, 70, 81])
def test_the_bits_are_those_of_the_whole_layer(count, dtype):
    """A base that is measured by the modules and an adapted model that is measured here differ by the adapter alone."""
    model = tiny_model("llama").to(dtype).requires_grad_(False)
    batch = pack(rows_of([60, 90, 41]))
    places = torch.randperm(len(batch.tokens), generator=torch.Generator().manual_seed(count))[:count].sort().values
    whole, own = packed_hidden(model, batch), packed_hidden(model, batch.read_at(places))
    assert int(own.isnan().any(dim=1).sum()) == len(own) - count
    assert torch.equal(own[places], whole[places])


@pytest.mark.parametrize("method", [DoRA, IA3])
def test_changes_that_are_no_updates_too(method):
    model = tiny_model("llama")
    attach(model, method(), "one")
    moved(model)
    assert_same(model, pack(rows_of(LENGTHS)))


def test_each_row_keeps_its_own_adapters():
    stacks = [stack and stack_of(stack) for stack in STACKS[: len(LENGTHS)]]
    assert_same(adapted("llama", stack=("one", "two")), pack(rows_of(LENGTHS), adapters=stacks))


def test_rows_without_anything_to_read_cost_nothing():
    rows = rows_of(LENGTHS)
    rows[0] = replace(rows[0], learned=(False,) * len(rows[0].tokens))
    rows[-1] = replace(rows[-1], learned=(False,) * len(rows[-1].tokens))
    stacks = [("one",) if place % 2 else ("two",) for place in range(len(rows))]
    assert_same(adapted("llama", stack=("one", "two")), pack(rows, adapters=stacks))


def test_a_tree_of_rows():
    start = rows_of([14])[0].tokens
    rows = [replace(r, tokens=start + r.tokens, learned=(False,) * 14 + r.learned) for r in rows_of(LENGTHS)]
    batch = pack_shared(rows)
    assert batch.parents is not None
    assert_same(adapted("llama"), batch)


def test_layers_that_are_computed_again():
    model = adapted("llama")
    model.train()
    model.gradient_checkpointing_enable()
    assert_same(model, pack(rows_of(LENGTHS)))


@pytest.mark.parametrize("kernels", [False, True])
def test_in_bfloat16_with_an_even_number_of_rows(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(native, "compiled", lambda _: None)
    model = adapted("llama").to(torch.bfloat16)
    assert_same(model, pack(rows_of([40, 60, 33])), tolerance=2**-7)


def test_with_dropout_the_layers_below_drop_the_same():
    model = adapted("llama", dropout=0.3, targets=[f"model.layers.0.self_attn.{one}_proj" for one in "qkvo"])
    model.train()
    batch = pack(rows_of(LENGTHS))
    places = read(batch)
    (hidden, _), (own, _) = ran(model, batch), ran(model, batch.read_at(places))
    assert_close(own[places], hidden[places], rtol=1e-5, atol=1e-5)


def test_above_a_trunk():
    model, rows = (
        adapted("llama", targets=["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.v_proj"]),
        rows_of(LENGTHS),
    )
    batch = pack(rows)
    states, places = torch.cat(trunk_states(model, rows, 1)), read(batch)
    with active(model, "one"):
        whole, own = (from_trunk(model, one, states, 1) for one in (batch, batch.read_at(places)))
    assert_close(own[places], whole[places], rtol=1e-5, atol=1e-5)
    assert own.isnan().any()


def test_where_all_is_read_or_something_acts_on_whole_rows_all_is_computed():
    model, batch = adapted("llama"), pack(rows_of(LENGTHS))
    nearly = torch.arange(int(MOST * len(batch.tokens)) + 1)
    assert not packed_hidden(model, batch.read_at(nearly)).isnan().any()
    soft = tiny_model("llama")
    attach(soft, Prompt(length=3), "one")
    assert not packed_hidden(soft, batch.read_at(read(batch))).isnan().any()
    assert not packed_hidden(tiny_model("gpt2"), batch.read_at(read(batch))).isnan().any()


def test_a_loss_that_reads_them_all_gets_them_without_the_others():
    """And another loss its rows among all: the same states, and the same gradients."""
    model = adapted(FUSED[0])
    batch = pack(rows_of(LENGTHS))
    places = read(batch)
    batch = batch.read_at(places)
    found = []
    for narrow in (True, False):
        model.zero_grad()
        states = packed_states(model, batch)
        assert states.read is not None
        view = View(model, batch, states if narrow else states._replace(read=None), None)
        some = view.at(places)
        assert (some.data_ptr() == states.read.data_ptr()) is narrow
        assert torch.equal(view.at(places[1:]), some[1:])
        some.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() != set()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_rows_are_never_few_and_even_in_bfloat16():
    model, stream = tiny_model("llama"), torch.zeros(200, 8, dtype=torch.bfloat16)
    with segments([0, 120, 200]) as packed:
        with torch.no_grad():
            readers = readers_of(model, packed, stream, torch.tensor([3, 50, 130]))
            others = readers_of(model, packed, stream, torch.arange(0, 66, 2))
        trained = readers_of(model, packed, stream, torch.arange(0, 66, 2))
    assert len(readers.places) == LEAST
    assert readers.places[:3].tolist() == [3, 50, 130]
    assert len(others.places) == even_size(48, stream) > 48
    assert len(trained.places) == (48 if multiplying(stream) else even_size(48, stream))


def test_a_pass_that_is_measured_skips_what_is_not_read():
    model, batch = tiny_model("llama").requires_grad_(False), pack(rows_of([400, 200]))
    counts = []
    for one in (batch, batch.read_at(torch.tensor([399, 599]))):
        with FlopCount() as count, torch.no_grad():
            packed_hidden(model, one)
        counts.append(count.total)
    behind = 2 * model.config.hidden_size * (model.config.hidden_size + 3 * model.config.intermediate_size)
    assert counts[0] - counts[1] == (600 - LEAST) * behind


def test_losses_say_what_they_read():
    batch = pack(pairs(count=3, prompt=20))
    supervised, dpo = Loss.find("next_token")(), Loss.find("dpo")()
    assert torch.equal(supervised.reads(batch), supervised.rows(batch))
    assert torch.equal(dpo.reads(batch), read(batch))
    assert len(dpo.rows(batch)) == 3


def test_positions_that_do_not_ascend_are_refused():
    with pytest.raises(AssertionError, match="ascend"):
        pack(rows_of(LENGTHS)).read_at(torch.tensor([4, 2]))
