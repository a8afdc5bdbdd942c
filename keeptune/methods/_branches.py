"""The tuned branch of a block: what is added to its maps and norms where a row's gate is open.

    lora    W x + a s B A x                    on every linear map
    copy    (W + a dW) x + b + a db,           on every linear map, and likewise gain and bias of every norm

With a = 1 throughout a block, `copy` is a trainable copy of the block: F'(x) has the weights W + dW. Keys and values are
those of the branch that ran, so a cache needs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class Branch(Delta):
    """A delta that a gate lets through. A file keeps it unless no row will ever pass."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.closed = inner, False

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """As the delta inside."""
        change: Tensor = self.inner(x, h, selection)
        return change

    def kept(self) -> dict[str, Tensor]:
        """What the delta inside keeps."""
        return {} if self.closed else self.inner.kept()

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """A file without it says that it is closed."""
        self.closed = not tensors


class Difference(Delta):
    """`dW x + db`: how far a copied linear map has moved.

    Attributes:
        weight: dW `[out, in]`.
        bias: db `[out]`, where the map has one.
    """

    def __init__(self, inputs: int, outputs: int, *, biased: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if biased else None

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return functional.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    @torch.no_grad()
    def fold(self, module: Any) -> None:
        """W + dW and b + db in float32, cast once."""
        update = self.weight.T if isinstance(module, Conv1D) else self.weight
        module.weight.copy_(module.weight.float() + update)
        if self.bias is not None:
            module.bias.copy_(module.bias.float() + self.bias)
