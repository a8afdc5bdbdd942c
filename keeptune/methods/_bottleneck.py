"""The two-layer network that sequential and parallel adapters share.

dh = s (W_up f(W_down z + b_down) + b_up),    W_down: r x D,  W_up: D x r
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection
from keeptune.methods._choices import Activation

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}


class TwoLayer(Delta):
    """The network above, computed in the dtype of z.

    Args:
        width: D.
        inner: r.
        activation: f.
        reads: z is the place's output `h` (sequential) or its input `x` (parallel).
        scale: s; None makes it a parameter.
    """

    def __init__(
        self, width: int, inner: int, *, activation: Activation, reads: Literal["x", "h"], scale: float | None = 1.0
    ) -> None:
        super().__init__()
        self.activation, self.reads, self.fixed = ACTIVATIONS[activation], reads, scale
        self.down = nn.Parameter(torch.zeros(inner, width))
        self.down_bias = nn.Parameter(torch.zeros(inner))
        self.up = nn.Parameter(torch.zeros(width, inner))
        self.up_bias = nn.Parameter(torch.zeros(width))
        if scale is None:
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., D]`."""
        z = x if self.reads == "x" else h
        inner = self.activation(functional.linear(z, self.down.to(z.dtype), self.down_bias.to(z.dtype)))
        change = functional.linear(inner, self.up.to(z.dtype), self.up_bias.to(z.dtype))
        return change * (self.scale.to(z.dtype) if self.fixed is None else self.fixed)

    def start(self, generator: torch.Generator, deviation: float | None = None) -> None:
        """W_down as U(-1/sqrt(D), 1/sqrt(D)), the rest 0 (the identity); or both normal within two deviations."""
        if deviation is None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)
            return
        for matrix in (self.down, self.up):
            nn.init.trunc_normal_(matrix, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
