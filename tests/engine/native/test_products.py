"""Sums of products by our own function: near to float64, and the same bits whatever is computed beside them."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from keeptune.engine.deltas import Factors
from keeptune.engine.fused.linear_group import LinearMap, linear_group
from keeptune.engine.fused.prologue import Same
from keeptune.engine.native import kernels as native
from keeptune.engine.native import products
from tests.engine.fused.test_linear_group import factors
from tests.flop_count import FlopCount

DTYPES = [torch.bfloat16, torch.float32]


def kernels_of(dtype):
    found = native.compiled(dtype)
    if found is None:
        pytest.skip("no C compiler here")
    return found


def drawn(dtype, *shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def assert_near(got, pairs, dtype, onto=None):
    """Each number within what n additions in float32 can lose (Higham 2002, section 3.1), and one rounding."""
    expected = sum(a.double() @ b.double() for a, b in pairs)
    summands = sum(a.double().abs() @ b.double().abs() for a, b in pairs)
    if onto is not None:
        expected, summands = expected + onto.double(), summands + onto.double().abs()
    additions = sum(len(b) for _, b in pairs) + 1
    limit = additions * 2**-24 * summands + (2**-8 * expected.abs() if got.dtype == torch.bfloat16 else 0)
    assert ((got.double() - expected).abs() <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 8, 17, 100])
@pytest.mark.parametrize("columns", [1, 15, 16, 33, 64, 112])
@pytest.mark.parametrize("length", [1, 2, 31, 1100])
def test_products_are_near_those_in_float64(dtype, rows, columns, length):
    kernels = kernels_of(dtype)
    a, b, across, bias = drawn(dtype, (rows, length), (length, columns), (columns, length), (columns,))
    stream = drawn(dtype, (rows, columns + 3), seed=1)[0][:, 2:-1]
    assert_near(kernels.summed((a, b)), [(a, b)], dtype)
    assert_near(kernels.summed((a, b), onto=stream), [(a, b)], dtype, stream)
    assert_near(kernels.summed((a, across.T), onto=bias), [(a, across.T)], dtype, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "length", "columns"), [(60, 5000, 100), (60, 9001, 512), (16, 901, 1408)])
def test_sums_are_put_down_between_windows(rows, length, columns, dtype):
    """Long ones; with all panels near, because a is far away; of few rows."""
    kernels = kernels_of(dtype)
    a, b = drawn(dtype, (rows, length), (length, columns))
    assert_near(kernels.summed((a, b)), [(a, b)], dtype)
    assert torch.equal(kernels.summed((a[:, :-1], b[:-1].T.contiguous().T)), kernels.summed((a[:, :-1], b[:-1])))
    assert torch.equal(kernels.summed((a[3:5], b[:, 7:40])), kernels.summed((a, b))[3:5, 7:40])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_four_products_of_odd_and_even_lengths_are_added_up(dtype):
    kernels = kernels_of(dtype)
    lengths = [513, 6, 1, 900]
    pairs = [tuple(drawn(dtype, (40, n), (n, 50), seed=n)) for n in lengths]
    assert_near(kernels.summed(*pairs), pairs, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_narrow_side_may_be_turned_or_a_part_of_another(dtype):
    kernels = kernels_of(dtype)
    v, x, wide = drawn(dtype, (33, 6), (33, 70), (40, 64))
    assert_near(kernels.summed((v.T, x)), [(v.T, x)], dtype)
    part, other = wide[:, 8:24], drawn(dtype, (16, 20))[0]
    assert_near(kernels.summed((part, other)), [(part, other)], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_depend_on_the_own_row_and_column_alone(dtype, threads):
    """Neither on what else is in the batch, nor on the panel, nor on the number of threads."""
    kernels = kernels_of(dtype)
    x, W, B, u = drawn(dtype, (150, 1100), (200, 1100), (200, 4), (150, 4))
    whole = kernels.summed((x, W.T), (u, B.T))
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(kernels.summed((x, W.T), (u, B.T)), whole)
    for rows, columns in ((slice(0, 5), slice(0, 200)), (slice(31, 77), slice(50, 67)), (slice(149, 150), slice(3, 4))):
        part = kernels.summed((x[rows], W[columns].T), (u[rows], B[columns].T))
        assert torch.equal(part, whole[rows, columns])


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_update_that_is_zero_changes_no_bit(dtype):
    """So the reference of a KL term, which has no updates, begins with the model's bits."""
    kernels = kernels_of(dtype)
    x, W, u = drawn(dtype, (50, 64), (48, 64), (50, 4))
    assert torch.equal(kernels.summed((x, W.T), (u, torch.zeros(4, 48, dtype=dtype))), kernels.summed((x, W.T)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_go_where_they_are_wanted(dtype):
    kernels = kernels_of(dtype)
    a, b, room = drawn(dtype, (9, 20), (20, 30), (12, 40))
    before = room.clone()
    kernels.summed((a, b), into=room[:9, :30])
    assert torch.equal(room[:9, :30], kernels.summed((a, b)))
    assert torch.equal(room[9:], before[9:])
    assert torch.equal(room[:, 30:], before[:, 30:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 16, 33])
@pytest.mark.parametrize("columns", [1, 15, 64, 113])
@pytest.mark.parametrize("length", [1, 2, 77, 800])
def test_gradients_of_factors_are_not_rounded_and_lie_as_they_are_wanted(dtype, rows, columns, length):
    """Of an a that lies, as the tokens of a batch do; some of its columns, as one update's among those of others."""
    kernels = kernels_of(dtype)
    wide, b = drawn(dtype, (length, rows + 4), (length, columns))
    a = wide[:, 3 : 3 + rows].T
    whole = kernels.summed((a, b), into=torch.full((rows, columns), torch.nan))
    assert_near(whole, [(a, b)], dtype)
    assert torch.equal(kernels.summed((a, b)), whole.to(dtype))
    turned = torch.full((columns + 2, rows + 1), torch.nan)
    kernels.summed((a, b), into=turned[1:-1, 1:].T)
    assert torch.equal(turned[1:-1, 1:].T, whole)
    assert turned[[0, -1]].isnan().all()
    assert turned[:, 0].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_scale_stands_before_the_rounding(dtype):
    kernels = kernels_of(dtype)
    a, b, onto = drawn(dtype, (37, 90), (90, 51), (37, 51))
    whole = kernels.summed((a, b), onto=onto, into=torch.empty(37, 51))
    assert torch.equal(kernels.summed((a, b), onto=onto, scale=0.3), (whole * 0.3).to(dtype))
    assert torch.equal(kernels.summed((a, b), onto=onto, scale=0.3, into=torch.empty(37, 51)), whole * 0.3)


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", ""])
def test_they_serve_where_libraries_lag_and_registers_are_wide(wide, vendor):
    library = mock.Mock(multiplies=lambda: wide)
    with mock.patch.object(products, "processor_says", return_value=vendor):
        assert products.serves(library) is (vendor == "AuthenticAMD" and wide == 1)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_group_of_maps_runs_them_and_its_gradients_are_those_of_torch(dtype, dropout, monkeypatch):
    """Of the step's large products none is left to the library."""
    monkeypatch.setattr(products, "serves", lambda _: True)
    fresh = native.Kernels(kernels_of(dtype).library, dtype)
    monkeypatch.setattr(native, "compiled", lambda _: fresh)
    got, count = values(dtype, dropout)
    assert set(count.by_name) & {"mm", "addmm", "addmm_"} == set()
    assert count.by_name["summed"] == count.total > 0
    monkeypatch.setattr(native, "compiled", lambda _: None)
    expected, torchs = values(torch.float64, dropout)
    assert count.total == torchs.total
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.double() - theirs).norm() <= (0.02 if dtype == torch.bfloat16 else 1e-6) * theirs.norm()


def values(dtype, dropout):
    """Outputs and gradients of three maps, and what was multiplied."""

    def of(*shape, seed, grad=False):
        # The same numbers for each dtype, which bfloat16 can hold.
        return drawn(torch.bfloat16, shape, seed=seed)[0].to(dtype).requires_grad_(grad)

    maps = []
    for number, (out, ranks) in enumerate(((48, (4,)), (32, (3, 6)), (16, ()))):
        updates = [
            Factors(of(rank, 64, seed=rank, grad=True), of(out, rank, seed=10 * rank, grad=True), 0.5, dropout)
            for rank in ranks
        ]
        maps.append(LinearMap(of(out, 64, seed=number), of(out, seed=9), updates))
    x, stream = of(23, 64, seed=5, grad=True), of(23, 48, seed=6, grad=True)
    torch.manual_seed(3)
    with FlopCount() as count:
        outputs = linear_group(Same(), [x], maps, onto=stream, carries=True)
        slopes = [of(*y.shape, seed=y.shape[1]) for y in outputs]
        found = torch.autograd.grad(outputs, [x, stream, *factors(maps)], slopes)
    return [*(y.detach() for y in outputs), *found], count
