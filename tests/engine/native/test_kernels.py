"""Every kernel against its formula in float64, beside the error of torch's operators on the same numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from keeptune.engine import causal_rows
from keeptune.engine.fused import rotation
from keeptune.engine.fused.prologue import RMSNorm, SwiGLU
from keeptune.engine.head import Head
from keeptune.engine.kernel_trial import agree
from keeptune.engine.kernels import serving
from keeptune.engine.native import kernels as native
from keeptune.engine.segments import Segments
from keeptune.losses.next_token import next_token

pytestmark = pytest.mark.skipif(native.compiled(torch.bfloat16) is None, reason="no C compiler here")


@pytest.fixture(params=native.READ, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def kernels(dtype):
    return native.compiled(dtype)


@pytest.fixture
def torch_alone(monkeypatch):
    """Inside the function that it gives, torch's operators run."""

    def run(function):
        with monkeypatch.context() as patched:
            patched.setattr(native, "compiled", lambda _: None)
            return function()

    return run


def drawn(dtype, *shape, seed=0, scale=1.0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def far(got, exact):
    return float((got.double() - exact).norm())


def no_farther(ours, theirs, exact):
    """Torch's operators round on the way. What float32 loses where terms of size 1 cancel is nobody's fault."""
    lost = 1e-6 * exact.numel() ** 0.5
    assert far(ours, exact) <= max(1.02 * far(theirs, exact), lost), (far(ours, exact), far(theirs, exact))


SHAPES = [(1, 1), (3, 40), (5, 512), (33, 129), (260, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_is_as_near_to_its_formula_as_that_of_torch(shape, dtype, kernels, torch_alone):
    h, g, weight = drawn(dtype, *shape), drawn(dtype, *shape, seed=1), drawn(dtype, shape[-1], seed=2)
    norm, wide = RMSNorm(weight, 1e-5), h.double().requires_grad_()
    formula = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    (exact,) = torch.autograd.grad(formula, wide, g.double())
    value, (slope,) = kernels.norm_back(g, h, weight, 1e-5)
    theirs = torch_alone(lambda: norm.back(g, h))
    no_farther(value, theirs.value, formula.detach())
    no_farther(slope, theirs.gradients[0], exact)
    assert torch.equal(kernels.norm(h, weight, 1e-5), value)
    assert torch.equal(kernels.norm_back(g, h, weight, 1e-5, again=False).gradients[0], slope)
    onto = drawn(dtype, *shape, seed=3)
    (added,) = kernels.norm_back(g, h, weight, 1e-5, onto=onto).gradients
    no_farther(added, onto + theirs.gradients[0], onto.double() + exact)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_gated_unit_is_as_near_to_its_formula_as_that_of_torch(shape, scale, dtype, kernels, torch_alone):
    gate, up, g = drawn(dtype, *shape, scale=scale), drawn(dtype, *shape, seed=1), drawn(dtype, *shape, seed=2)
    wide = [x.double().requires_grad_() for x in (gate, up)]
    formula = functional.silu(wide[0]) * wide[1]
    exact = torch.autograd.grad(formula, wide, g.double())
    value, slopes = kernels.gated_back(g, gate, up)
    theirs = torch_alone(lambda: SwiGLU().back(g, gate, up))
    no_farther(value, theirs.value, formula.detach())
    assert torch.equal(kernels.gated(gate, up), value)
    for pair in zip(slopes, theirs.gradients, exact, strict=True):
        no_farther(*pair)


@pytest.mark.parametrize("half", [1, 4, 20, 64])
def test_turned_heads_are_those_of_torch_bit_by_bit(half, dtype, kernels, torch_alone):
    x, angles = drawn(dtype, 9, 3, 2 * half), torch.randn(9, 4 * half, generator=torch.Generator().manual_seed(1))
    cos, sin = (f(angles).to(dtype)[:, None, :half] for f in (torch.cos, torch.sin))
    there, back = torch_alone(lambda: [rotation._turn(x, cos, sin, back=back) for back in (False, True)])
    assert torch.equal(kernels.rotate(x, cos, sin), there)
    assert torch.equal(kernels.rotate(x, cos, sin, back=True), back)


# Lengths around the sizes of blocks and tiles, and rows without tokens.
LENGTHS = [(1,), (5, 0, 6, 7), (47, 48, 49), (130, 2), (0,)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 16), (2, 2, 48), (3, 1, 64), (2, 1, 80), (4, 4, 128)])
def test_attention_and_its_gradient_are_nearer_to_the_formula_than_those_of_torch(
    lengths, heads, groups, width, dtype, torch_alone
):
    total = sum(lengths)
    shapes = [(total, count, width) for count in (heads, groups, groups)]
    given = [drawn(dtype, *shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    slope = drawn(dtype, total, heads, width, seed=9)
    offsets = (0, *itertools.accumulate(lengths))

    def found():
        value = causal_rows.attend_rows(*given, Segments(offsets), None, None)
        return value.detach(), *torch.autograd.grad(value, given, slope)

    wide = [x.detach().double().requires_grad_() for x in given]
    parts = [wide[0][:0] + wide[1][:0].sum() + wide[2][:0].sum()]
    for start, end in itertools.pairwise(offsets):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in wide)
        k, v = (x.repeat_interleave(heads // groups, 1) for x in (k, v))
        if end > start:
            parts.append(functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1))
    whole = torch.cat(parts)
    exact = whole.detach(), *torch.autograd.grad(whole, wide, slope.double())
    for pair in zip(found(), torch_alone(found), exact, strict=True):
        no_farther(*pair)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_float32s_and_its_gradient_is_rounded_once(weighted, dtype, kernels):
    logits, targets = (
        drawn(dtype, 7, 1003, scale=4.0),
        torch.randint(1003, (7,), generator=torch.Generator().manual_seed(1)),
    )
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0, 1e-3]) if weighted else None
    wide = logits.double().requires_grad_()
    each = functional.cross_entropy(wide, targets, reduction="none")
    each = each if weights is None else each * weights
    (exact,) = torch.autograd.grad(each.sum(), wide)
    losses = kernels.next_token(logits, targets, weights)
    torch.testing.assert_close(losses, each.detach().float(), rtol=1e-6, atol=1e-6)
    # Half a unit in the last of the eight places of a bfloat16, and float32's own error.
    assert bool(((logits.double() - exact).abs() <= exact.abs() * (2**-8 + 1e-5) + 1e-38).all())


# Widths around a block of outputs and the lanes of a register, ranks of one and many.
@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(1, 1, 1), (40, 512, 3), (33, 513, 8), (129, 1030, 256)])
def test_updates_of_rows_with_factors_of_their_own_are_rounded_once(inputs, outputs, rank, dtype, kernels):
    x, h = drawn(dtype, 5, inputs), drawn(dtype, 5, outputs, seed=1)
    A, B = drawn(dtype, 3, rank, inputs, seed=2), drawn(dtype, 3, rank, outputs, seed=3)
    scale, sets = torch.rand(3, rank, generator=torch.Generator().manual_seed(4)), torch.tensor([2, -1, 0, 2, 1])
    assert kernels.updates(rank)
    assert not kernels.updates(257)
    inner = torch.einsum("nri,ni->nr", A[sets].double(), x.double()) * scale[sets].double()
    exact = h.double() + torch.einsum("nro,nr->no", B[sets].double(), inner) * (sets >= 0)[:, None]
    found = kernels.low_rank(x, h, A, B, scale, sets)
    assert torch.equal(found[1], h[1]), "a row without factors keeps its bits"
    unit = 2**-8 if dtype == torch.bfloat16 else 0.0
    lost = 1e-5 * (exact.abs() + rank * inputs**0.5)  # by float32, where terms cancel
    assert bool(((found.double() - exact).abs() <= unit * exact.abs() + lost).all())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_makes_a_loss_that_is_none(wrong, dtype, kernels):
    """A step whose loss is not finite is skipped, so it has to be seen."""
    logits = drawn(dtype, 2, 40)
    logits[1, 17] = wrong
    losses = kernels.next_token(logits, torch.tensor([3, 4]), None)
    assert losses.isfinite().tolist() == [True, False]


def test_a_loss_through_the_head_is_that_of_torch(dtype, torch_alone):
    head = Head(drawn(dtype, 300, 32, seed=1, scale=0.3))
    hidden = drawn(dtype, 50, 32, seed=2).requires_grad_()
    targets = torch.arange(50) * 5
    targets[::7] = -100

    def found():
        loss = next_token(hidden, targets, head)
        return loss, torch.autograd.grad(loss, hidden)[0]

    (ours, slope), (theirs, other) = found(), torch_alone(found)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, other, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("head", ["scaled", "capped", "biased"])
def test_a_head_that_bends_its_logits_is_not_given_to_the_kernel(head, dtype, monkeypatch):
    weight, bias = drawn(dtype, 30, 16), drawn(dtype, 30, seed=3).requires_grad_()
    made = {"scaled": Head(weight, scale=0.5), "capped": Head(weight, soft_cap=3.0), "biased": Head(weight, bias)}[head]
    monkeypatch.setattr(native.Kernels, "next_token", lambda *_: pytest.fail("the kernel ran"))
    next_token(drawn(dtype, 4, 16).requires_grad_(), torch.arange(4), made).backward()


def test_threads_change_no_bit(dtype, kernels):
    h, g, weight = drawn(dtype, 300, 256), drawn(dtype, 300, 256, seed=1), drawn(dtype, 256, seed=2)
    offsets = torch.tensor([0, 100, 250, 300])
    sums = torch.randn(300, 4, generator=torch.Generator().manual_seed(4)) + 5

    none = torch.zeros(300, dtype=torch.int64)

    def all_of_them():
        heads = h.view(300, 4, 64)
        logits = drawn(dtype, 100, 700)
        losses = kernels.next_token(logits, torch.arange(100), None)
        return [
            kernels.norm(h, weight, 1e-5),
            *kernels.norm_back(g, h, weight, 1e-5).gradients,
            kernels.gated(h, g),
            *kernels.gated_back(g, h, g).gradients,
            *kernels.attention(heads, heads, heads, (offsets, offsets), 0.1),
            *kernels.attention_back(heads, heads, heads, g.view(300, 4, 64), sums, (offsets, offsets), 0.1),
            kernels.low_rank(h, g, h[:8].view(1, 8, 256), g[:8].view(1, 8, 256), sums[:2].view(1, 8), none),
            losses,
            logits,
        ]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = all_of_them()
        torch.set_num_threads(3)
        three = all_of_them()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(one, three, strict=True))


def test_other_tensors_are_not_served(dtype):
    x = drawn(dtype, 4, 6)
    assert serving(x, x[:2]) is not None
    assert serving(x, x.to(next(other for other in native.READ if other != dtype))) is None
    assert serving(x.double()) is None
    assert serving(x.T) is None
    assert serving(x.to("meta")) is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_they_are_tried_by_whoever_computes_first_with_gradients_or_without(mode, kernels):
    """A run measures its base before it trains, so that the trial often begins where no gradient is wanted."""
    with mode():
        assert agree(kernels, kernels.dtype)
