"""Prologues: cheap functions in front of linear maps, computed again in the backward pass instead of kept.

    norm      x = w * h r,  r = (mean(h^2) + eps)^-1/2          dh = r (w g - h r^2 mean(w g h))
    SwiGLU    x = a(t) u,  a(t) = t sigmoid(t)                  dt = g u (s + a (1 - s)),  du = g a,  s = sigmoid(t)

g is the gradient in x. Statistics and products run in float32 (float64 for float64 inputs); results have the dtype of
the inputs. Values are rounded where transformers' modules round, so that they are theirs bitwise: where nothing learns,
a model is measured, and there bits count. Training (`engine/learning`) runs the kernels where there are some
(`engine/kernels`), whose bits depend on a token's own numbers alone; torch takes another exponential for the last
numbers of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from keeptune.engine.kernel_contract import Back, Kernels
from keeptune.engine.kernels import serving, settle


class Prologue(Protocol):
    """A function of some tensors; whatever else it depends on is frozen."""

    def value(self, *inputs: Tensor) -> Tensor:
        """The function there."""
        ...

    def back(self, gradient: Tensor, *inputs: Tensor, again: bool = True, onto: Tensor | None = None) -> Back:
        """The gradient in each input, given that in the value.

        Args:
            gradient: in the value.
            inputs: of the function.
            again: whether the value is wanted too, for both share work.
            onto: what the gradient in the first input is added to.
        """
        ...


class Same:
    """The input itself."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Itself."""
        return inputs[0]

    def back(self, gradient: Tensor, *inputs: Tensor, again: bool = True, onto: Tensor | None = None) -> Back:
        """Itself."""
        return Back(inputs[0], (_added(gradient, onto),))


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467).

    Attributes:
        weight: w, (D,), frozen.
        epsilon: eps.
        learns: the pass trains, so that the value may be a kernel's.
    """

    weight: Tensor
    epsilon: float
    learns: bool = False

    def value(self, *inputs: Tensor) -> Tensor:
        """h: (..., D) to (..., D)."""
        if kernels := _forward(self.learns, inputs[0], self.weight):
            return kernels.norm(inputs[0], self.weight, self.epsilon)
        return self._scaled(inputs[0].dtype, *self._parts(inputs[0]))

    def back(self, gradient: Tensor, *inputs: Tensor, again: bool = True, onto: Tensor | None = None) -> Back:
        """In h."""
        (h,) = inputs
        if kernels := serving(gradient, h, self.weight, *([] if onto is None else [onto])):
            return kernels.norm_back(gradient, h, self.weight, self.epsilon, again=again, onto=onto)
        wide, inverse = self._parts(h)
        value = self._scaled(h.dtype, wide, inverse) if again else None
        slope = gradient * self.weight.to(wide.dtype)
        shared = (slope * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-h.shape[-1])
        return Back(value, (_added(slope.mul_(inverse).addcmul_(wide, shared).to(h.dtype), onto),))

    def _parts(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Wide h, and r (..., 1)."""
        wide = h.to(wide_of(h))
        return wide, wide.square().mean(-1, keepdim=True).add_(self.epsilon).rsqrt_()

    def _scaled(self, dtype: torch.dtype, wide: Tensor, inverse: Tensor) -> Tensor:
        return (wide * inverse).to(dtype).mul_(self.weight)


@dataclass(frozen=True)
class SwiGLU:
    """The gated unit of Llama-like feed-forward layers (Shazeer 2020, arXiv:2002.05202).

    Attributes:
        learns: the pass trains, so that the value may be a kernel's.
    """

    learns: bool = False

    def value(self, *inputs: Tensor) -> Tensor:
        """t, u: (..., F) to (..., F)."""
        gate, up = inputs
        if kernels := _forward(self.learns, gate, up):
            return kernels.gated(gate, up)
        return functional.silu(gate) * up

    def back(self, gradient: Tensor, *inputs: Tensor, again: bool = True, onto: Tensor | None = None) -> Back:
        """In t and u."""
        gate, up = inputs
        if kernels := serving(gradient, gate, up):
            value, (slope, other) = kernels.gated_back(gradient, gate, up, again=again)
            return Back(value, (_added(slope, onto), other))
        opened = functional.silu(gate)
        value = opened * up if again else None
        slope = torch.ops.aten.silu_backward(gradient * up, gate)
        return Back(value, (_added(slope, onto), opened.mul_(gradient)))


def _forward(learns: bool, *tensors: Tensor) -> Kernels | None:
    """The kernels of a value: of a pass that trains."""
    if learns:
        return serving(*tensors)
    settle()
    return None


def _added(gradient: Tensor, onto: Tensor | None) -> Tensor:
    """By torch's operators, which read what kernels gave."""
    if onto is None:
        return gradient
    settle()
    return gradient + onto


def wide_of(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def value_again(prologue: Prologue, *inputs: Tensor) -> Tensor:
    """The value as `back` computes it, for inputs without gradients: the same bits, whichever of them want one."""
    value = prologue.back(inputs[0], *inputs).value  # any gradient gives it
    assert value is not None
    return value


def computed(prologue: Prologue, *inputs: Tensor) -> Tensor:
    """The value of a prologue by itself; the backward pass keeps the inputs alone."""
    value: Tensor = _Computed.apply(prologue, *inputs)  # type: ignore[no-untyped-call]
    return value


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prologue: Prologue, *inputs: Tensor) -> Tensor:
        ctx.prologue = prologue
        ctx.save_for_backward(*inputs)
        return prologue.value(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.prologue.back(gradient, *ctx.saved_tensors, again=False).gradients)
