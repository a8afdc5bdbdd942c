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
    """A function of some tensors; whatever else it depends on is frozen."""

    def at(self, *inputs: Tensor) -> Point:
        """The function there: what its value and its gradient share is computed once."""
        ...


class Point(Protocol):
    """A prologue at some inputs."""

    def value(self) -> Tensor:
        """The value; asked for once, before the gradient."""
        ...

    def gradient(self, gradient: Tensor) -> tuple[Tensor, ...]:
        """The gradient in each input, given that in the value."""
        ...


class Same:
    """The input itself."""

    def at(self, *inputs: Tensor) -> Point:
        """Itself."""
        return _Itself(inputs[0])


@dataclass(frozen=True)
class _Itself:
    x: Tensor

    def value(self) -> Tensor:
        return self.x

    def gradient(self, gradient: Tensor) -> tuple[Tensor, ...]:
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

    def at(self, *inputs: Tensor) -> Point:
        """h: (..., D) to (..., D)."""
        (h,) = inputs
        wide = h.to(wide_of(h))
        inverse = wide.square().mean(-1, keepdim=True).add_(self.epsilon).rsqrt_()
        return _Normed(wide, inverse, self.weight, h.dtype)


@dataclass(frozen=True)
class _Normed:
    wide: Tensor
    inverse: Tensor
    weight: Tensor
    dtype: torch.dtype

    def value(self) -> Tensor:
        return (self.wide * self.inverse).to(self.dtype).mul_(self.weight)

    def gradient(self, gradient: Tensor) -> tuple[Tensor, ...]:
        slope = gradient * self.weight.to(self.wide.dtype)
        width = self.wide.shape[-1]
        shared = (slope * self.wide).sum(-1, keepdim=True).mul_(self.inverse.pow(3)).div_(-width)
        return (slope.mul_(self.inverse).addcmul_(self.wide, shared).to(self.dtype),)


class SwiGLU:
    """The gated unit of Llama-like feed-forward layers (Shazeer 2020, arXiv:2002.05202)."""

    def at(self, *inputs: Tensor) -> Point:
        """t, u: (..., F) to (..., F)."""
        gate, up = inputs
        return _Gated(gate, up, functional.silu(gate))


@dataclass(frozen=True)
class _Gated:
    gate: Tensor
    up: Tensor
    opened: Tensor

    def value(self) -> Tensor:
        return self.opened * self.up

    def gradient(self, gradient: Tensor) -> tuple[Tensor, ...]:
        slope = torch.ops.aten.silu_backward(gradient * self.up, self.gate)
        return slope, self.opened.mul_(gradient)


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
        return prologue.at(*inputs).value()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.prologue.at(*ctx.saved_tensors).gradient(gradient))
