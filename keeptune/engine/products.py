"""Products with frozen weights in float32 on a processor: by the faster of the two libraries that torch brings.

    linear   y = x W' + b          back   dx = g W

Torch multiplies float32 with MKL and bfloat16 with oneDNN. On AMD's processors with AVX-512 oneDNN is the faster one in
float32 as well (docs/log.md), so there a training step asks it. Which one runs is decided by the processor and never by
a measurement, so that a run and what is left of it after a cut end in the same bits. A pass that measures a model keeps
torch's own product, as it keeps torch's own bits everywhere.

Shapes: x (T, in), W (out, in), b (out,), g (T, out).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from keeptune.engine.native.library import SWITCH

FEWEST = 32
"""Rows of a product from which on it pays."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The value x W' + b, (T, out), in a step that learns; nothing is differentiated."""
    return _by_onednn(x, weight, bias) if suits(x, weight) else functional.linear(x, weight, bias)


def back(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient in x of x W': g W, (T, in)."""
    return _by_onednn(gradient, weight.T, None) if suits(gradient, weight) else gradient @ weight


def add_back(to: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """Adds g W to a tensor (T, in), in place."""
    if suits(gradient, weight):
        return to.add_(_by_onednn(gradient, weight.T, None))
    return to.addmm_(gradient, weight)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies these."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return plain and x.dim() == 2 and len(x) >= FEWEST and x.is_contiguous() and faster_by_onednn()


@functools.cache
def faster_by_onednn() -> bool:
    """Whether this is a processor where it is the faster one, and it computes what it should."""
    told = Path("/proc/cpuinfo")
    if os.environ.get(SWITCH) == "0" or not told.exists() or not of_amd_with_avx512(told.read_text()):
        return False
    draw = torch.Generator().manual_seed(0)
    shapes = ((FEWEST, 40), (24, 40), (24,), (FEWEST, 24))
    x, weight, bias, gradient = (torch.randn(*shape, generator=draw) for shape in shapes)
    try:
        found = _by_onednn(x, weight, bias), _by_onednn(gradient, weight.T, None)
    except (AttributeError, RuntimeError):  # a torch without it, or with another form of it
        return False
    expected = x @ weight.T + bias, gradient @ weight
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(found, expected, strict=True))


def of_amd_with_avx512(told: str) -> bool:
    """Whether what the system tells of a processor says so."""
    return "AuthenticAMD" in told and "avx512f" in told.split()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found
