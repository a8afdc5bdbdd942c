"""Rotary embedding (Su et al. 2021, arXiv:2104.09864): each pair of a head's coordinates is turned by an angle.

    (a, b) -> (a cos - b sin, b cos + a sin)        a: first half of a head, b: second half

The backward pass turns back, so nothing but the angles is kept. Products are rounded before they are added, as in
transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.kernels import serving


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turned heads.

    Args:
        x: (T, H, K).
        cos: (T, 1, K / 2), of the angle of each pair.
        sin: (T, 1, K / 2).
    """
    turned: Tensor = _Rotated.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return turned


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, back=True), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    if (kernels := serving(x)) and cos.dtype == sin.dtype == x.dtype:
        return kernels.rotate(x, cos, sin, back=back)
    sin = -sin if back else sin
    a, b = x.chunk(2, dim=-1)
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    c, d = turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=c).sub_(b * sin)
    torch.mul(b, cos, out=d).add_(a * sin)
    return turned
