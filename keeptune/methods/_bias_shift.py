"""What is added to a bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class Shift(Delta):
    """A vector, whatever the input.

    Attributes:
        shift: `[D_out]`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[D_out]`."""
        return self.shift
