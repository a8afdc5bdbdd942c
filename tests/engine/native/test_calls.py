"""Kernels that run together: the bits of those that run one at a time, and nobody reads what is not there yet."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.fused.prologue import RMSNorm, SwiGLU
from keeptune.engine.native import calls
from keeptune.engine.native import kernels as native
from keeptune.engine.native.calls import ARGUMENTS, settle, together

pytestmark = pytest.mark.skipif(native.compiled(torch.bfloat16) is None, reason="no C compiler here")
KERNELS = native.compiled(torch.bfloat16)


def drawn(*shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def chain():
    """Each kernel behind another: whose results it reads."""
    h, weight, cos = drawn(40, 64), drawn(64, seed=1), drawn(40, 1, 8, seed=2)
    x = KERNELS.norm(h, weight, 1e-5)
    A, W = drawn(3, 64, seed=3), drawn(64, 64, seed=4)
    u = KERNELS.summed((x, A.T), scale=0.5)  # of an odd rank: a copy is made of it
    y = KERNELS.summed((x, W.T), (u, A), onto=h)
    q = KERNELS.rotate(y.view(40, 4, 16), cos, cos)
    offsets = torch.tensor([0, 17, 40]), torch.tensor([0, 17, 40])
    output, sums = KERNELS.attention(q, q, q, offsets, 0.25)
    d_query, d_key, d_value = KERNELS.attention_back(q, q, q, output, sums, offsets, 0.25)
    gated = KERNELS.gated(d_query, d_key)
    value, slopes = KERNELS.gated_back(gated, d_value, d_query)
    again, (slope,) = KERNELS.norm_back(value.view(40, 64), y, weight, 1e-5, onto=slopes[0].view(40, 64))
    updated = KERNELS.low_rank(slope, again, A[None], A[None], torch.ones(1, 3), torch.zeros(40, dtype=torch.int64))
    losses = KERNELS.next_token(updated, torch.arange(40), None)
    narrow = KERNELS.summed((u.T, updated), into=torch.empty(64, 3).T)
    return [x, u, y, q, output, sums, d_key, gated, *slopes, slope, updated, losses, narrow]


def test_together_they_give_the_bits_of_one_at_a_time(monkeypatch):
    expected, counts = chain(), []
    real = calls._run
    monkeypatch.setattr(
        calls, "_run", lambda library, packed, count: counts.append(count) or real(library, packed, count)
    )
    with together(), together():
        got = chain()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
    # Before the copy of the odd one, and at the end.
    assert len(counts) == 2
    assert sum(counts) == len(ARGUMENTS) + 3


def test_operators_of_torch_read_what_has_run():
    """A prologue that no kernel serves runs the ones that it waits for."""
    h, W = drawn(8, 32), drawn(32, 32, seed=1)
    norm, expected = RMSNorm(drawn(32, seed=2).float(), 1e-5), KERNELS.summed((h, W))
    for function in (norm.value, lambda x: norm.back(x, x)[1][0], lambda x: SwiGLU().value(x, x)):
        with together():
            found = function(KERNELS.summed((h, W)))
        assert torch.equal(found, function(expected))


def test_what_waits_runs_when_it_is_asked_for():
    h, W = drawn(8, 32), drawn(32, 32, seed=1)
    expected = KERNELS.summed((h, W))
    with together():
        found = KERNELS.summed((h, W), into=torch.zeros(8, 32, dtype=torch.bfloat16))
        assert not found.any()
        settle()
        assert torch.equal(found, expected)


def test_kernels_of_two_numbers_keep_their_order():
    wide, h, W = native.compiled(torch.float32), drawn(8, 32), drawn(32, 32, seed=1)
    expected = wide.gated(KERNELS.summed((h, W), into=torch.empty(8, 32)), W[:8].float())
    with together():
        found = wide.gated(KERNELS.summed((h, W), into=torch.empty(8, 32)), W[:8].float())
    assert torch.equal(found, expected)


def test_behind_an_error_they_run_and_nothing_waits():
    """The checkpoint's recomputation ends in one when it has what the gradients need."""
    h, W, room = drawn(8, 32), drawn(32, 32, seed=1), torch.zeros(8, 32, dtype=torch.bfloat16)

    def interrupted():
        with together():
            KERNELS.summed((h, W), into=room)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert torch.equal(room, KERNELS.summed((h, W)))


def test_too_little_memory_is_an_error_at_the_end(monkeypatch):
    library = type("Short", (), {"calls": staticmethod(lambda packed, count: count - 1)})()
    with pytest.raises(MemoryError, match="no memory"):
        calls.call(library, "gated", (drawn(2, 2),) * 3, 4, 1)
    with pytest.raises(MemoryError, match="no memory"), together():
        calls.call(library, "gated", (drawn(2, 2),) * 3, 4, 1)
