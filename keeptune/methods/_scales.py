"""The vector that (IA)^3 scales activations with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class Scales(Delta):
    """The vector l, whatever comes by.

    Attributes:
        ia3_l: `[D]`.
    """

    def __init__(self, width: int, *, column: bool) -> None:
        super().__init__()
        self.column = column
        self.ia3_l = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[D]`."""
        return self.ia3_l

    def kept(self) -> dict[str, Tensor]:
        """As PEFT has it: a column where it scales an output, a row where it scales an input."""
        vector = self.ia3_l.detach()
        return {"ia3_l": vector[:, None] if self.column else vector[None]}
