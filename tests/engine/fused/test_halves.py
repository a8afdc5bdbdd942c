"""A layer as two functions against the same layer as many: bits, where nothing is computed otherwise."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.batch import pack
from keeptune.engine.fused import body, halves
from keeptune.engine.head import head_of
from keeptune.engine.native import kernels as native
from keeptune.engine.native import products
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import active
from keeptune.engine.shared_rows import pack_shared
from keeptune.losses.next_token import next_token
from keeptune.methods._low_rank import LowRank
from tests.engine.fused.test_body import FUSED, adapted
from tests.engine.test_packed import LENGTHS, rows_of
from tests.stages.test_preference_losses import pairs

pytestmark = pytest.mark.skipif(native.compiled(torch.bfloat16) is None, reason="no C compiler here")
WIDE = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
DTYPES = [torch.bfloat16, torch.float32]
WINDOWS = {"mistral, window": 2, "qwen2, window above": 1}
"""Layers with one shorter than the rows, where no kernel attends."""


@pytest.fixture(autouse=True)
def multiplying(monkeypatch):
    """On every processor, whoever makes the fastest products there."""
    monkeypatch.setattr(products, "serves", lambda _: True)
    fresh = {dtype: native.Kernels(native.compiled(dtype).library, dtype) for dtype in DTYPES}
    monkeypatch.setattr(native, "compiled", fresh.get)


@pytest.fixture
def ran(monkeypatch):
    """How often each half did."""
    counts = dict.fromkeys(("_Attending", "_Feeding"), 0)
    for name in counts:
        real = getattr(halves, name).backward

        def counted(ctx, *slopes, name=name, real=real):
            counts[name] += 1
            return real(ctx, *slopes)

        monkeypatch.setattr(getattr(halves, name), "backward", staticmethod(counted))
    return counts


def found(model, batch):
    model.zero_grad()
    torch.manual_seed(3)
    hidden = packed_hidden(model, batch)
    assert model.body_path == "fused"
    next_token(hidden, batch.targets, head_of(model)).backward()
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model, batch, ran, *, attending=2, feeding=2):
    hidden, gradients = found(model, batch)
    assert ran == {"_Attending": attending, "_Feeding": feeding}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body.Decoder, "_halves", lambda *_: (None, None))
        expected, slopes = found(model, batch)
    assert ran == {"_Attending": attending, "_Feeding": feeding}
    assert torch.equal(hidden, expected)
    assert gradients.keys() == slopes.keys() != set()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, slopes[name]), name


def batches():
    """Rows; the last layer over what is read; rows that share their beginning."""
    rows = pack(rows_of(LENGTHS))
    reads = (rows.targets[::2] > -1).nonzero()[:, 0] * 2
    tree = pack_shared(pairs())
    assert tree.parents is not None
    return {"rows": rows, "tree": tree, "few": rows.read_at(reads)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FUSED)
def test_values_and_gradients_are_those_of_the_groups(family, dtype, ran):
    model = adapted(family, **WIDE).to(dtype)
    assert_same(model, pack(rows_of(LENGTHS)), ran, attending=2 - WINDOWS.get(family, 0))


@pytest.mark.parametrize("which", ["tree", "few"])
def test_rows_that_share_a_beginning_and_a_last_layer_for_its_readers(which, ran):
    model, batch = adapted("llama", **WIDE), batches()[which]
    hidden, gradients = found(model, batch) if which == "tree" else read(model, batch)
    assert ran == {"_Attending": 2, "_Feeding": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body.Decoder, "_halves", lambda *_: (None, None))
        expected, slopes = found(model, batch) if which == "tree" else read(model, batch)
    assert torch.equal(hidden, expected)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, slopes[name]), name


def read(model, batch):
    """Where the batch says that it is read."""
    model.zero_grad()
    hidden = packed_hidden(model, batch)[batch.reads]
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scales", [(2.0, 2.0), (2.0, 0.75)])
def test_several_updates_of_a_map_have_scales_of_their_own(scales, ran):
    model = adapted("llama", stack=("one", "two"), **WIDE)
    deltas = [module for module in model.modules() if isinstance(module, LowRank)]
    for delta in deltas:
        delta.scale = scales[len(delta.lora_A) - 2]
    assert {len(delta.lora_A) for delta in deltas} == {2, 3}
    with active(model, ("one", "two")):
        assert_same(model, pack(rows_of(LENGTHS)), ran)


@pytest.mark.parametrize(("targets", "attending"), [(["q_proj", "v_proj"], 2), (["up_proj", "down_proj"], 1)])
def test_some_of_the_maps_learn(targets, attending, ran):
    """Nothing goes back through the attention of the lowest layer where only what comes behind it learns."""
    assert_same(adapted("llama", targets=targets, **WIDE), pack(rows_of(LENGTHS)), ran, attending=attending)


@pytest.mark.parametrize("half", ["q_proj", "o_proj", "up_proj", "down_proj"])
@pytest.mark.parametrize("layer", [0, 1])
def test_what_nothing_below_learns_gets_no_gradient(half, layer, ran):
    model = adapted("llama", **WIDE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            parameter.requires_grad and f"layers/{layer}/" in name.replace(".", "/") and half in name
        )
    assert any(parameter.requires_grad for parameter in model.parameters())
    hidden, gradients = found(model, pack(rows_of(LENGTHS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body.Decoder, "_halves", lambda *_: (None, None))
        expected, slopes = found(model, pack(rows_of(LENGTHS)))
    assert ran["_Feeding"] == 2 - layer
    assert torch.equal(hidden, expected)
    assert gradients.keys() == slopes.keys() != set()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, slopes[name]), name


def test_with_dropout_a_layer_is_many_functions(ran):
    model = adapted("llama", dropout=0.2, **WIDE)
    model.train()
    found(model, pack(rows_of(LENGTHS)))
    assert ran == {"_Attending": 0, "_Feeding": 0}


def test_checkpointed_layers_give_the_same_gradients_bitwise(ran):
    model = adapted("llama", **WIDE)
    _, expected = found(model, pack(rows_of(LENGTHS)))
    model.gradient_checkpointing_enable()
    model.train()
    _, gradients = found(model, pack(rows_of(LENGTHS)))
    assert ran == {"_Attending": 4, "_Feeding": 4}
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name
