"""A group of linear maps against the same maps written out one by one, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from keeptune.engine.deltas import Factors
from keeptune.engine.fused.linear_group import LinearMap, linear_group
from keeptune.engine.fused.prologue import RMSNorm, Same, SwiGLU
from tests.flop_count import FlopCount

T, IN, OUT = 9, 6, (8, 4, 5)
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def make(*shape, generator, grad=True):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def group(dropout=0.0, ranks=((2,), (3, 1), ()), bias=True, seed=0):
    """Three maps of six inputs; the second carries two updates, the third none."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for out, own in zip(OUT, ranks, strict=True):
        updates = [
            Factors(make(rank, IN, generator=generator), make(out, rank, generator=generator), 0.5 * rank, dropout)
            for rank in own
        ]
        weight = make(out, IN, generator=generator, grad=False)
        maps.append(LinearMap(weight, make(out, generator=generator, grad=False) if bias else None, updates))
    return maps


def one_by_one(x, maps):
    """As hooks would: every update draws its own dropout, in order."""
    outputs = []
    for one in maps:
        y = functional.linear(x, one.weight, one.bias)
        for update in one.updates:
            y = y + update.scale * functional.dropout(x, update.dropout) @ update.A.T @ update.B.T
        outputs.append(y)
    return outputs


def factors(maps):
    return [factor for one in maps for update in one.updates for factor in (update.A, update.B)]


def gradients(outputs, leaves):
    generator = torch.Generator().manual_seed(7)
    slopes = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, leaves, slopes)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prologue", ["same", "norm", "gated"])
def test_values_and_gradients_are_those_of_the_maps_one_by_one(dropout, bias, prologue):
    maps = group(dropout, bias=bias)
    generator = torch.Generator().manual_seed(1)
    inputs = [make(T, IN, generator=generator) for _ in range(2 if prologue == "gated" else 1)]
    weight = torch.linspace(0.5, 2, IN, dtype=torch.float64)
    function = {"same": Same(), "norm": RMSNorm(weight, 1e-3), "gated": SwiGLU()}[prologue]
    x = {
        "same": lambda h: h,
        "norm": lambda h: weight * h / (h.square().mean(-1, keepdim=True) + 1e-3).sqrt(),
        "gated": lambda gate, up: functional.silu(gate) * up,
    }[prologue](*inputs)
    torch.manual_seed(5)
    expected = one_by_one(x, maps)
    torch.manual_seed(5)
    got = linear_group(function, inputs, maps)
    leaves = [*inputs, *factors(maps)]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    for ours, theirs in zip(gradients(got, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prologue", ["same", "norm", "gated"])
def test_a_stream_is_added_to_and_goes_on(prologue, bias):
    """y = stream + W x, and the input itself, whose gradient is that of both ways."""
    maps = group(bias=bias)
    generator = torch.Generator().manual_seed(1)
    inputs = [make(T, IN, generator=generator) for _ in range(2 if prologue == "gated" else 1)]
    stream, weight = make(T, OUT[0], generator=generator), torch.linspace(0.5, 2, IN, dtype=torch.float64)
    function = {"same": Same(), "norm": RMSNorm(weight, 1e-3), "gated": SwiGLU()}[prologue]
    plain = linear_group(function, inputs, maps)
    expected = [stream + plain[0], *plain[1:], inputs[0] * 1.0]
    got = linear_group(function, inputs, maps, onto=stream, carries=True)
    leaves = [*inputs, stream, *factors(maps)]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    for ours, theirs in zip(gradients(got, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_dropout_leaves_the_generator_where_it_would_have_been():
    maps, x = group(0.4), make(T, IN, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    outputs = linear_group(Same(), [x], maps)
    after = torch.get_rng_state()
    gradients(outputs, [x])
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(5)
    one_by_one(x, maps)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_frozen_update_acts_and_gets_no_gradient():
    maps, x = group(), make(T, IN, generator=torch.Generator().manual_seed(1))
    frozen = maps[1].updates[0]
    for factor in (frozen.A, frozen.B):
        factor.requires_grad_(False)
    leaves = [leaf for leaf in [x, *factors(maps)] if leaf.requires_grad]
    got, expected = linear_group(Same(), [x], maps), one_by_one(x, maps)
    for ours, theirs in zip(gradients(got, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_an_input_without_gradient_costs_no_product_with_the_weights():
    """Backward there are g B, (g B)' x and g' (A x) of each update, and no g W."""
    maps, x = group(ranks=((2,), (3,), ())), make(T, IN, generator=torch.Generator(), grad=False)
    with FlopCount() as count:
        sum(y.sum() for y in linear_group(Same(), [x], maps)).backward()
    forward = sum(2 * T * IN * out for out in OUT) + sum(2 * T * rank * (IN + out) for rank, out in ((2, 8), (3, 4)))
    backward = sum(2 * T * rank * (out + IN + out) for rank, out in ((2, 8), (3, 4)))
    assert count.total == forward + backward


def test_nothing_as_large_as_the_input_is_kept_beside_it():
    maps, x = group(ranks=((2,), (3,), ()), bias=False), make(T, IN, generator=torch.Generator())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        linear_group(RMSNorm(torch.ones(IN, dtype=torch.float64), 1e-6), [x], maps)
    wide = {tensor.data_ptr() for tensor in kept if tensor.shape == (T, IN)}
    assert wide == {x.data_ptr()}
