"""Back ends of attention for packed causal rows: one contract, held against a loop over queries in float64."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

from keeptune.engine import attention, causal_rows, varlen
from keeptune.engine.segments import Segments

OFFSETS = (0, 7, 7, 8, 21, 25)
H, G, K = 4, 2, 8
SCALE = 0.3


def states(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(OFFSETS[-1], heads, K) for heads in (H, G, G)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [x.requires_grad_() for x in made]


def slow(query, key, value, offsets=OFFSETS, window=None, scale=SCALE):
    """One query of one head at a time."""
    parts = []
    for start, end in itertools.pairwise(offsets):
        for t in range(start, end):
            first = start if window is None else max(start, t - window + 1)
            for head in range(H):
                k, v = (x[first : t + 1, head // (H // G)] for x in (key, value))
                parts.append(torch.softmax(scale * k @ query[t, head], 0) @ v)
    return torch.stack(parts).view(query.shape)


@pytest.mark.parametrize("block", [3, 4, 128])
def test_rows_on_a_processor_equal_the_loop_in_values_and_gradients(block, monkeypatch):
    monkeypatch.setattr(causal_rows, "BLOCK", block)
    inputs = states()
    got, expected = causal_rows.attend_rows(*inputs, Segments(OFFSETS), None, SCALE), slow(*inputs)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    slope = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_in_bfloat16_are_no_farther_from_the_loop_than_those_of_sdpa():
    inputs = states(torch.bfloat16)
    slope = torch.randn(OFFSETS[-1], H, K, generator=torch.Generator().manual_seed(1)).bfloat16()
    wide = [x.detach().double().requires_grad_() for x in inputs]
    exact = torch.autograd.grad(slow(*wide), wide, slope.double())

    def error(output):
        found = torch.autograd.grad(output, inputs, slope)
        return sum((a.double() - b).square().sum() for a, b in zip(found, exact, strict=True)).sqrt()

    parts = []
    for start, end in itertools.pairwise(OFFSETS):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in inputs)
        sdpa = torch.nn.functional.scaled_dot_product_attention
        parts.append(sdpa(q, k, v, is_causal=True, scale=SCALE, enable_gqa=True)[0].transpose(0, 1))
    ours = error(causal_rows.attend_rows(*inputs, Segments(OFFSETS), None, SCALE))
    assert ours <= 1.2 * error(torch.cat(parts))


def called(monkeypatch, *, suits, window=None, dtype=torch.float32):
    """The back ends that one packed call of `attention` went to, and its output."""
    asked = []
    for back_end in attention.BACK_ENDS:
        name, original = back_end.__name__.rpartition(".")[2], back_end.attend_rows
        if name in suits:
            monkeypatch.setattr(back_end, "suits", lambda *_: True)
        monkeypatch.setattr(back_end, "attend_rows", lambda *a, n=name, f=original: asked.append(n) or f(*a))
    q, k, v = (x.detach().transpose(0, 1)[None] for x in states(dtype))
    module = SimpleNamespace(is_causal=True)
    output, _ = attention.attention(module, q, k, v, Segments(OFFSETS), scaling=SCALE, sliding_window=window)
    return asked, output[0]


@pytest.fixture
def installed(monkeypatch):
    """Puts a kernel where torch has its own."""

    def install(kernel):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=kernel))
        varlen._arguments.cache_clear()

    yield install
    varlen._arguments.cache_clear()


@pytest.fixture(params=["told of shared heads", "not told"])
def flash(request, installed):
    """A kernel for rows of any length that runs anywhere: the loop, with the arguments of torch's; 2.11's has fewer."""
    calls = []

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert enable_gqa
        return older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        calls.append((cu_seq_q.dtype, max_q, max_k, window_size))
        assert torch.equal(cu_seq_q, cu_seq_k)
        window = None if window_size[0] < 0 else window_size[0] + 1
        return slow(query, key, value, cu_seq_q.tolist(), window, scale)

    installed(older if request.param == "not told" else varlen_attn)
    return calls


@pytest.mark.parametrize("window", [None, 4])
def test_on_a_gpu_one_kernel_takes_all_rows_and_their_window(monkeypatch, flash, window):
    asked, output = called(monkeypatch, suits={"varlen"}, window=window)
    assert asked == ["varlen"]
    assert flash == [(torch.int32, 13, 13, (-1 if window is None else 3, 0))]
    torch.testing.assert_close(output.double(), slow(*states(), window=window).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "window", "expected"),
    [
        (torch.bfloat16, None, ["causal_rows"]),
        (torch.bfloat16, 13, ["causal_rows"]),
        (torch.bfloat16, 12, []),
        (torch.float32, None, []),
    ],
)
def test_on_a_processor_bfloat16_rows_within_the_window_go_by_matrix_products(monkeypatch, dtype, window, expected):
    asked, output = called(monkeypatch, suits=(), window=window, dtype=dtype)
    assert asked == expected
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(output.double(), slow(*states(), window=window).detach(), rtol=0, atol=tolerance)


def test_the_kernel_of_a_gpu_is_for_half_precision_on_ampere_and_later(monkeypatch, installed):
    def suits(*, cuda=True, dtype=torch.bfloat16, width=64, dropout=0.0, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        query = SimpleNamespace(is_cuda=cuda, dtype=dtype, shape=(25, 4, width), device="cuda:0")
        return varlen.suits(query, Segments(OFFSETS), None, dropout)

    assert suits()
    assert suits(dtype=torch.float16, capability=(8, 0))
    for unfit in (
        {"cuda": False},
        {"dtype": torch.float32},
        {"width": 512},
        {"dropout": 0.1},
        {"capability": (7, 5)},
    ):
        assert not suits(**unfit)
    installed(lambda query, key, value, is_causal: None)
    assert not suits(), "a kernel that knows no window and no scale"
