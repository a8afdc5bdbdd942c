"""Even sizes: few of them, close above what was asked for, and nothing is changed by the rows behind."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine import packed
from keeptune.engine.batch import pack
from keeptune.engine.even import even_size, evened
from keeptune.engine.head import Head
from keeptune.engine.packed import packed_hidden, packed_states
from tests.engine.test_packed import rows_of
from tests.tiny_models import tiny_model

NARROW = torch.zeros(1, dtype=torch.bfloat16)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000, 2047, 2048, 2049, 10_000, 100_001])
def test_a_size_is_close_above(count):
    size = even_size(count, NARROW)
    assert count <= size < count + max(32, count / 32 + 1)
    assert even_size(size, NARROW) == size


def test_few_sizes_lie_between_a_power_of_two_and_the_next():
    assert len({even_size(count, NARROW) for count in range(2049, 4097)}) == 32
    assert len({even_size(count, NARROW) for count in range(1, 2049)}) == 64


def test_other_dtypes_stay_as_they_are():
    assert even_size(33, torch.zeros(1)) == 33
    rows = torch.randn(33, 2)
    assert evened(rows) is rows


def test_rows_behind_are_zeros():
    rows = torch.randn(33, 2, 3).bfloat16()
    assert torch.equal(evened(rows)[:33], rows)
    assert evened(rows).shape == (64, 2, 3)
    assert not evened(rows)[33:].any()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mistral, window"])
@pytest.mark.parametrize("lengths", [[5, 20], [33], [31, 1]])
def test_a_longer_last_row_changes_no_state_before(family, lengths, monkeypatch):
    """In float32, made even as bfloat16 is."""
    model = tiny_model(family)
    batch = pack(rows_of(lengths))
    with torch.no_grad():
        expected = packed_states(model, batch, layers=True)
        monkeypatch.setattr("keeptune.engine.packed.even_size", lambda count, like: even_size(count, NARROW))
        found = packed_states(model, batch, layers=True)
    assert found.hidden.shape == expected.hidden.shape
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=1e-5)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gradients_of_a_longer_last_row_are_those_of_the_rows(monkeypatch):
    model = tiny_model("llama")
    batch = pack(rows_of([5, 20]))

    def gradients():
        model.zero_grad()
        packed_hidden(model, batch).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients()
    monkeypatch.setattr("keeptune.engine.packed.even_size", lambda count, like: even_size(count, NARROW))
    for ours, theirs in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_products_of_our_own_need_no_even_size(own, trains, monkeypatch):
    """A pass that is measured multiplies by the library."""
    model, seen = tiny_model("llama"), []
    model.requires_grad_(False)
    monkeypatch.setattr("keeptune.engine.packed.even_size", lambda count, like: even_size(count, NARROW))
    monkeypatch.setattr("keeptune.engine.packed.multiplying", lambda *_: own or None)
    body = packed.fused_hidden
    monkeypatch.setattr(packed, "fused_hidden", lambda m, p, x, *a, **k: seen.append(len(x)) or body(m, p, x, *a, **k))
    with torch.set_grad_enabled(trains):
        assert packed_hidden(model, pack(rows_of([5, 20]))).shape[0] == 25
    assert seen == [25 if own and trains else 32]


def test_a_head_gives_the_logits_of_its_rows_alone():
    head = Head(torch.randn(7, 4).bfloat16())
    hidden = torch.randn(33, 4).bfloat16()
    assert head.product(hidden).shape == (64, 7)
    assert head.logits(hidden).shape == (33, 7)
    torch.testing.assert_close(head.logits(hidden), (hidden @ head.weight.T).float(), rtol=1e-2, atol=1e-2)
