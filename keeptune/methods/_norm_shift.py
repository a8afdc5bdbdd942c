"""What is added to the gain and the bias of a norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from keeptune.core.errors import PlanError
from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class NormShift(Delta):
    """`n(x) dg + db`; n in float32.

    Attributes:
        gain: dg `[D]`.
        bias: db `[D]`, where the norm has one.
    """

    def __init__(self, norm: Any, *, biased: bool) -> None:
        super().__init__()
        self.centred, self.eps = isinstance(norm, nn.LayerNorm), _eps(norm)
        has_bias = getattr(norm, "bias", None) is not None
        width = norm.weight.numel()
        self.gain = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width)) if biased and has_bias else None

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., D]`."""
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        z = z - z.mean(-1, keepdim=True) if self.centred else z
        change = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + self.eps) * self.gain.to(z.dtype)
        return change if self.bias is None else change + self.bias.to(z.dtype)


def _eps(norm: nn.Module) -> float:
    for name in ("eps", "variance_epsilon"):
        if isinstance(getattr(norm, name, None), float) and getattr(norm, "weight", None) is not None:
            return float(getattr(norm, name))
    raise PlanError(
        f"'{type(norm).__name__}' is neither a LayerNorm nor an RMSNorm with a gain.",
        code="E-METHOD-TARGET",
        fix="Use `bitfit` or `lora` on this model.",
    )
