"""Attention of a tree of segments: every back end against a loop over queries, each with its row written out."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from keeptune.engine import attention, causal_rows, varlen
from keeptune.engine.native import kernels as native
from keeptune.engine.reach import reach_of
from keeptune.engine.segments import Segments

# An instruction, two rows behind it; an example behind it, two rows behind that; a row of its own.
OFFSETS = (0, 9, 14, 63, 75, 83, 84, 90)
PARENTS = (-1, 0, 0, 0, 3, 3, -1)
TREE = Segments(OFFSETS, PARENTS)
H, G = 4, 2
SCALE = 0.3


def states(dtype=torch.float64, width=16):
    generator = torch.Generator().manual_seed(0)
    shapes = [(OFFSETS[-1], heads, width) for heads in (H, G, G)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [x.requires_grad_() for x in made]


def row_of(segment):
    """The tokens of the segment's row, its own at the end."""
    before = [] if PARENTS[segment] < 0 else row_of(PARENTS[segment])
    return [*before, *range(OFFSETS[segment], OFFSETS[segment + 1])]


def slow(query, key, value, window=None):
    """One query of one head at a time."""
    found = {}
    for segment in range(len(PARENTS)):
        row = row_of(segment)
        for place, token in enumerate(row):
            seen = row[0 if window is None else max(0, place - window + 1) : place + 1]
            heads = ((head, *(x[seen, head // (H // G)] for x in (key, value))) for head in range(H))
            found[token] = torch.stack([torch.softmax(SCALE * k @ query[token, head], 0) @ v for head, k, v in heads])
    return torch.stack([found[token] for token in range(OFFSETS[-1])])


def compared(found, inputs, relative):
    """Values and gradients with the loop's in float64; errors in units of what is expected."""
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = slow(*wide)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = [found, *torch.autograd.grad(found, inputs, slope.to(found.dtype))]
    for got, exact in zip(ours, [expected, *torch.autograd.grad(expected, wide, slope)], strict=True):
        assert (got.double() - exact).norm() <= relative * exact.norm()


@pytest.mark.parametrize("block", [3, 4, 128])
def test_matrix_products_equal_the_loop(block, monkeypatch):
    monkeypatch.setattr(causal_rows, "BLOCK", block)
    inputs = states()
    compared(causal_rows.attend_rows(*inputs, TREE, None, SCALE), inputs, 1e-12)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.bfloat16, 2**-7), (torch.float32, 2**-20)])
@pytest.mark.parametrize("width", [16, 64])
def test_the_kernel_of_a_processor_equals_the_loop(dtype, relative, width, monkeypatch):
    if native.compiled(dtype) is None:
        pytest.skip("no C compiler here")
    monkeypatch.setattr(causal_rows, "_by_rows", None)
    inputs = states(dtype, width)
    compared(causal_rows.attend_rows(*inputs, TREE, None, SCALE), inputs, relative)


@pytest.mark.parametrize("window", [None, 6])
def test_the_loop_over_segments_equals_the_loop(window):
    """What runs where no back end suits: with a window shorter than a row, or in float64."""
    q, k, v = (x.transpose(0, 1)[None] for x in states())
    module = SimpleNamespace(is_causal=True)
    found, _ = attention.attention(module, q, k, v, TREE, scaling=SCALE, sliding_window=window)
    assert_close(found[0], slow(*states(), window=window), rtol=1e-10, atol=1e-12)


def rows_together(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, late=True):
    """A kernel for rows of any length that runs anywhere; `late`: the last query belongs to the last key."""
    parts = []
    rows = zip(itertools.pairwise(cu_seq_q.tolist()), itertools.pairwise(cu_seq_k.tolist()), strict=True)
    for (start, end), (first, last) in rows:
        q, k, v = query[start:end], key[first:last], value[first:last]
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(0, 1) for x in (k, v))
        past = last - first - (end - start) if late else 0
        band = torch.ones(end - start, last - first, dtype=torch.bool).tril(past)
        if window_size[0] >= 0:
            band = band.triu(past - window_size[0])
        parts.append(scaled_dot_product_attention(q.transpose(0, 1), k, v, band, scale=scale).transpose(0, 1))
        assert end - start <= max_q
        assert last - first <= max_k
    return torch.cat(parts)


@pytest.fixture
def installed(monkeypatch):
    """Puts a kernel where torch has its own."""

    def install(kernel):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=kernel))
        forget()

    def forget():
        varlen._arguments.cache_clear()
        varlen._ends_together.cache_clear()

    yield install
    forget()


@pytest.mark.parametrize("window", [None, 6])
def test_the_kernel_of_a_gpu_is_told_what_each_row_sees(window, installed):
    installed(rows_together)
    inputs = states()
    found = varlen.attend_rows(*inputs, TREE, window, SCALE)
    assert_close(found, slow(*inputs, window=window), rtol=1e-10, atol=1e-12)
    if window is None:
        compared(found, inputs, 1e-12)


def test_a_kernel_whose_first_query_belongs_to_the_first_key_gets_no_trees(installed, monkeypatch):
    def late(query, key, value, *ends, scale, window_size):
        return rows_together(query, key, value, *ends, scale=scale, window_size=window_size)

    def early(query, key, value, *ends, scale, window_size):
        return rows_together(query, key, value, *ends, scale=scale, window_size=window_size, late=False)

    def broken(*given, scale, window_size):
        raise RuntimeError("as many keys as queries, please")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    query = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(90, 4, 64), device=torch.device("cpu"))
    for kernel, takes in ((late, True), (early, False), (broken, False)):
        installed(kernel)
        assert varlen.suits(query, TREE, None, 0.0) == takes
        assert varlen.suits(query, Segments(OFFSETS), None, 0.0)


def test_gradients_of_what_rows_share_are_added_up_in_float32():
    reach = reach_of(TREE, torch.device("cpu"))
    assert reach.pasts == [0, 9, 9, 9, 21, 21, 0]
    ones = torch.full((TREE.row_offsets[-1], 1), 1 + 2**-7, dtype=torch.bfloat16)
    counts = torch.tensor([6.0] * 9 + [1.0] * 54 + [3.0] * 12 + [1.0] * 15)
    assert_close(reach.gathered(ones)[:, 0], (counts * (1 + 2**-7)).bfloat16(), rtol=0, atol=0)
    alone = Segments(OFFSETS)
    x = torch.randn(90, 2)
    assert reach_of(alone, torch.device("cpu")).seen(x) is x
    assert alone.longest == 49
    assert TREE.longest == 58
