"""Every kernel against its formula in float64, beside the error of torch's operators on the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from keeptune.engine.fused import rotation
from keeptune.engine.fused.prologue import RMSNorm, SwiGLU
from keeptune.engine.gpu.kernels import LOGITS, READ, Kernels
from keeptune.engine.kernel_trial import agree
from tests.engine.gpu import DEVICE
from tests.engine.native import test_kernels as on_a_processor
from tests.engine.native.test_kernels import no_farther

KERNELS = Kernels()


def drawn(*given, **named):
    """The same numbers on the device."""
    return on_a_processor.drawn(*given, **named).to(DEVICE)


# Rows of one number, of a power of two and beside it, and more numbers than one program takes.
SHAPES = [(1, 1), (3, 40), (5, 512), (33, 129), (2, 3, 64)]
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.fixture(params=READ, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch):
    """What is compared with is made of torch's operators."""
    monkeypatch.setenv("KEEPTUNE_KERNELS", "0")
    monkeypatch.setattr("keeptune.engine.kernels.kernels_of", lambda *_: None)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_is_as_near_to_its_formula_as_that_of_torch(shape, dtype):
    h, g, weight = drawn(dtype, *shape), drawn(dtype, *shape, seed=1), drawn(dtype, shape[-1], seed=2)
    norm, wide = RMSNorm(weight, 1e-5), h.double().requires_grad_()
    formula = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    (exact,) = torch.autograd.grad(formula, wide, g.double())
    value, (slope,) = KERNELS.norm_back(g, h, weight, 1e-5)
    theirs = norm.back(g, h)
    no_farther(value, theirs.value, formula.detach())
    no_farther(slope, theirs.gradients[0], exact)
    assert torch.equal(KERNELS.norm_back(g, h, weight, 1e-5, again=False).gradients[0], slope)
    onto = drawn(dtype, *shape, seed=3)
    (added,) = KERNELS.norm_back(g, h, weight, 1e-5, onto=onto).gradients
    no_farther(added, onto + theirs.gradients[0], onto.double() + exact)
    assert torch.equal(KERNELS.norm(h, weight, 1e-5), value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_gated_unit_is_as_near_to_its_formula_as_that_of_torch(shape, scale, dtype):
    gate, up, g = drawn(dtype, *shape, scale=scale), drawn(dtype, *shape, seed=1), drawn(dtype, *shape, seed=2)
    wide = [x.double().requires_grad_() for x in (gate, up)]
    formula = functional.silu(wide[0]) * wide[1]
    exact = torch.autograd.grad(formula, wide, g.double())
    value, slopes = KERNELS.gated_back(g, gate, up)
    theirs = SwiGLU().back(g, gate, up)
    no_farther(value, theirs.value, formula.detach())
    for pair in zip(slopes, theirs.gradients, exact, strict=True):
        no_farther(*pair)
    assert torch.equal(KERNELS.gated(gate, up), value)
    for mine, same in zip(KERNELS.gated_back(g, gate, up, again=False).gradients, slopes, strict=True):
        assert torch.equal(mine, same)


@pytest.mark.parametrize(("heads", "half"), [(1, 1), (3, 4), (4, 20), (5, 64)])
def test_turned_heads_are_those_of_torch_bit_by_bit(heads, half, dtype):
    x, angles = drawn(dtype, 9, heads, 2 * half), torch.randn(9, 4 * half, generator=torch.Generator().manual_seed(1))
    cos, sin = (f(angles).to(DEVICE, dtype)[:, None, :half] for f in (torch.cos, torch.sin))
    for back in (False, True):
        assert torch.equal(KERNELS.rotate(x, cos, sin, back=back), rotation._turn(x, cos, sin, back=back))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("vocabulary", [2, 1003, LOGITS, LOGITS + 1])
def test_the_loss_is_float32s_and_its_gradient_is_rounded_once(weighted, vocabulary, dtype):
    logits = drawn(dtype, 7, vocabulary, scale=4.0)
    targets = torch.randint(vocabulary, (7,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    targets[0], targets[1] = vocabulary - 1, 0
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0, 1e-3], device=DEVICE) if weighted else None
    wide = logits.double().requires_grad_()
    each = functional.cross_entropy(wide, targets, reduction="none")
    each = each if weights is None else each * weights
    (exact,) = torch.autograd.grad(each.sum(), wide)
    losses = KERNELS.next_token(logits, targets, weights)
    torch.testing.assert_close(losses, each.detach().float(), rtol=1e-6, atol=1e-6)
    unit = torch.finfo(dtype).eps / 2  # and the smallest number of a float16
    least = 2**-24 if dtype is torch.float16 else 1e-38
    assert bool(((logits.double() - exact).abs() <= exact.abs() * (unit + 1e-5) + least).all())


def test_the_gradient_of_a_sure_target_keeps_its_digits():
    """1 - p of a p that float32 rounds to 1: taken as a sum of the others it is exact."""
    logits = torch.tensor([[30.0, 0.0, 1.0]], device=DEVICE)
    KERNELS.next_token(logits, torch.tensor([0], device=DEVICE), None)
    mass = math.exp(30) + 1 + math.e
    exact = torch.tensor([[-(1 + math.e) / mass, 1 / mass, math.e / mass]])
    torch.testing.assert_close(logits.cpu(), exact, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [17, 4])
def test_a_logit_that_is_no_number_makes_a_loss_that_is_none(wrong, place, dtype):
    """A step whose loss is not finite is skipped, so it has to be seen; 4 is the target itself."""
    logits = drawn(dtype, 2, 40)
    logits[1, place] = wrong
    losses = KERNELS.next_token(logits, torch.tensor([3, 4], device=DEVICE), None)
    assert losses.isfinite().tolist() == [True, False]


def test_the_trial_takes_them(dtype):
    assert agree(KERNELS, dtype, DEVICE)


@pytest.mark.parametrize("name", ["norm", "norm_back", "gated", "gated_back", "rotate", "next_token"])
def test_the_trial_sees_a_kernel_that_is_wrong_by_a_hundredth(name, monkeypatch):
    def wrong(*given, **named):
        found = real(*given, **named)
        if name == "next_token":
            given[0].mul_(1.01)
        parts = [found] if isinstance(found, torch.Tensor) else [x for x in (found.value, *found.gradients)]
        for part in parts:
            part.mul_(1.01)
        return found

    real = getattr(KERNELS, name)
    monkeypatch.setattr(Kernels, name, staticmethod(wrong))
    assert not agree(KERNELS, torch.float32, DEVICE)
