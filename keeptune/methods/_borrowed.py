"""A layer of PEFT's beside the linear map that it was made around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from keeptune.core.errors import PlanError
from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection
from keeptune.models.peft_library import Built


class Borrowed(Delta):
    """`L(x) - (W x + b)`.

    Args:
        layer: L, PEFT's.
        lead: of the first delta alone: what PEFT built, which is stored as a whole.
    """

    def __init__(self, layer: Any, lead: Built | None) -> None:
        super().__init__()
        self.take(layer, lead)

    def take(self, layer: Any, lead: Built | None) -> None:
        """Takes another layer's place."""
        self.layer: Any = layer
        self._lead = [lead]  # in a list, so that PEFT's model is no submodule

    @property
    def lead(self) -> Built | None:
        """What PEFT built."""
        return self._lead[0]

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., out]`."""
        tokens = x if x.ndim == 3 else x[None]
        change: Tensor = self.layer(tokens) - self.layer.base_layer(tokens)
        return change if x.ndim == 3 else change[0]

    def kept(self) -> dict[str, Tensor]:
        """What PEFT would save of all layers, at the first of them."""
        return {} if self.lead is None else self.lead.tensors()

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Lets PEFT load them: some types store less than they hold."""
        if self.lead is not None:
            self.lead.load(tensors)


@torch.no_grad()
def check_tokens(delta: Borrowed, module: Any, width: int) -> None:
    """Refuses a layer that needs more than its input, or whose tokens look at each other: rows could not differ."""
    x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(module.weight)
    try:
        alone, together = (delta.eval().layer(part) for part in (x[:, :1], x))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise PlanError(f"PEFT's layer cannot run by itself: {reason}", code="E-METHOD-PEFT") from error
    if not torch.allclose(alone, together[:, :1], rtol=1e-2, atol=1e-2):
        raise PlanError("in PEFT's layer tokens look at each other, so rows cannot differ.", code="E-METHOD-PEFT")
