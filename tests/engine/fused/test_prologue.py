"""Prologues and rotation against transformers' modules, values and gradients, in float64 and bfloat16."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from keeptune.engine.fused.prologue import RMSNorm, Same, SwiGLU, computed
from keeptune.engine.fused.rotation import rotated
from keeptune.engine.native import kernels as native

T, D = 7, 12


@pytest.fixture(autouse=True, params=["kernels", "torch"])
def _both_ways(request, monkeypatch):
    """With the kernels where they serve, and by torch's operators alone."""
    if request.param == "torch":
        monkeypatch.setattr(native, "compiled", lambda _: None)


# One unit in the last place of a bfloat16 is 2^-8 of it; values here are below 8.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8 * 2**-8}


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def same_value_and_gradients(ours, theirs, inputs, tolerance):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    slope = sample(*ours.shape, seed=9, dtype=ours.dtype).detach()
    for got, expected in zip(
        torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(theirs, inputs, slope), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_transformers(dtype):
    module = LlamaRMSNorm(D, eps=1e-3).to(dtype).requires_grad_(False)
    with torch.no_grad():
        module.weight.copy_(sample(D, seed=1))
    h = sample(T, 3, D, dtype=dtype)
    same_value_and_gradients(computed(RMSNorm(module.weight, 1e-3), h), module(h), [h], CLOSE[dtype])


def test_the_gradient_of_the_norm_is_that_of_its_formula():
    weight, h = sample(D, seed=1).detach(), sample(T, D)
    formula = weight * h / (h.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    same_value_and_gradients(computed(RMSNorm(weight, 1e-3), h), formula, [h], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_gated_unit_is_that_of_its_formula(dtype):
    gate, up = sample(T, D, dtype=dtype), sample(T, D, seed=2, dtype=dtype)
    formula = gate * torch.sigmoid(gate) * up
    same_value_and_gradients(computed(SwiGLU(), gate, up), formula, [gate, up], CLOSE[dtype])


def test_the_same_is_the_same():
    x = sample(T, D)
    same_value_and_gradients(computed(Same(), x), x * 1, [x], 0.0)


def test_a_prologue_keeps_its_inputs_alone():
    gate, up = sample(T, D), sample(T, D, seed=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        computed(SwiGLU(), gate, up)
    assert {tensor.data_ptr() for tensor in kept} == {gate.data_ptr(), up.data_ptr()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_heads_are_turned_as_in_transformers(dtype):
    x = sample(T, 3, 8, dtype=dtype)
    angles = sample(T, 4, seed=3).detach()
    cos, sin = (torch.cat([f(angles), f(angles)], -1).to(dtype) for f in (torch.cos, torch.sin))
    theirs, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos[None], sin[None])
    ours = rotated(x, cos[:, None, :4], sin[:, None, :4])
    same_value_and_gradients(ours, theirs[0].transpose(0, 1), [x], CLOSE[dtype])
