"""The tuned branch of a block: what is added to its maps and norms where a row's gate is open.

    lora    W x + a s B A x                    on every linear map
    copy    (W + a dW) x + b + a db,           on every linear map, and likewise gain and bias of every norm

With a = 1 throughout a block, `copy` is a trainable copy of the block: F'(x) has the weights W + dW. Keys and values
are those of the branch that ran, so a cache needs nothing more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection
from keeptune.methods._policy import Policy


class Branch(Delta):
    """A delta that the gate of its block lets through; a file keeps it unless no row will ever pass.

    Args:
        inner: the delta.
        policy: what decides.
        layer: of the block.
    """

    def __init__(self, inner: Any, policy: Policy, layer: int) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer
        self._policy = [policy]  # in a list, so that it is not a submodule of every branch

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """As the delta inside."""
        change: Tensor = self.inner(x, h, selection)
        return change

    @property
    def closed(self) -> bool:
        """Whether the policy has settled on other blocks."""
        settled = self._policy[0].settled
        return bool(settled.any()) and not settled[self.layer]

    def kept(self) -> dict[str, Tensor]:
        """What the delta inside keeps."""
        return {} if self.closed else self.inner.kept()


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

    def update(self) -> Tensor:
        """How far W has moved, `[out, in]`."""
        return self.weight

    @torch.no_grad()
    def fold_bias(self, module: Any) -> None:
        """Adds db to the map's bias in float32, cast once."""
        if self.bias is not None:
            module.bias.copy_(module.bias.float() + self.bias)
