"""Prologues: cheap functions in front of linear maps, computed again in the backward pass instead of kept.

    norm      x = w * h r,  r = (mean(h^2) + eps)^-1/2          dh = r (w g - h r^2 mean(w g h))
    SwiGLU    x = a(t) u,  a(t) = t sigmoid(t)                  dt = g u (s + a (1 - s)),  du = g a,  s = sigmoid(t)

g is the gradient in x. Statistics and products run in float32 (float64 for float64 inputs); results have the dtype of
the inputs. Values are rounded where transformers' modules round, so that they are theirs bitwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Prologue(Protocol):
    """A function of some tensors and its gradient; whatever else it depends on is frozen."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value."""
        ...

    def backward(self, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gradient in each input, given that in the value."""
        ...


class Same:
    """The input itself."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The input."""
        return inputs[0]

    def backward(self, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gradient as it is."""
        return (gradient,)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467).

    Attributes:
        weight: w, (D,), frozen.
        epsilon: eps.
    """

    weight: Tensor
    epsilon: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        (h,) = inputs
        wide = h.to(wide_of(h))
        return (wide * self._inverse(wide)).to(h.dtype).mul_(self.weight)

    def backward(self, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gradient in h."""
        (h,) = inputs
        wide = h.to(wide_of(h))
        inverse = self._inverse(wide)
        slope = gradient * self.weight.to(wide.dtype)
        shared = (slope * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-h.shape[-1])
        return (slope.mul_(inverse).addcmul_(wide, shared).to(h.dtype),)

    def _inverse(self, wide: Tensor) -> Tensor:
        return wide.square().mean(-1, keepdim=True).add_(self.epsilon).rsqrt_()


class SwiGLU:
    """The gated unit of Llama-like feed-forward layers (Shazeer 2020, arXiv:2002.05202)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """t, u: (..., F) to (..., F)."""
        gate, up = inputs
        return functional.silu(gate).mul_(up)

    def backward(self, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gradients in t and u."""
        gate, up = inputs
        slope = torch.ops.aten.silu_backward(gradient * up, gate)
        return slope, functional.silu(gate).mul_(gradient)


def wide_of(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def computed(prologue: Prologue, *inputs: Tensor) -> Tensor:
    """The value of a prologue by itself; the backward pass keeps the inputs alone."""
    value: Tensor = _Computed.apply(prologue, *inputs)  # type: ignore[no-untyped-call]
    return value


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prologue: Prologue, *inputs: Tensor) -> Tensor:
        ctx.prologue = prologue
        ctx.save_for_backward(*inputs)
        return prologue.forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.prologue.backward(gradient, *ctx.saved_tensors))
