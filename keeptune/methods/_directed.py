"""A linear map whose weight is kept as a direction and a length per output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection
from keeptune.methods._low_rank import LowRank
from keeptune.models.quantize import matrix_of


class Directed(Delta):
    """The output of a map whose weight is W'.

    Args:
        direction: `s B A drop(x)`.
        module: the frozen map.

    Attributes:
        lora_magnitude_vector: m, `[out]`.
    """

    def __init__(self, direction: LowRank, module: nn.Module) -> None:
        super().__init__()
        self.direction = direction
        self._module: list[Any] = [module]  # in a list, so that the base is not a submodule of the adapter
        self.lora_magnitude_vector = nn.Parameter(torch.ones(len(direction.lora_B)))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., out]`, in place of h."""
        scale, bias = self.scale(), self._module[0].bias
        product = h if bias is None else h - bias.to(h.dtype)
        change = self.direction(x, h, selection).to(h.dtype)
        directed: Tensor = h + (scale - 1).to(h.dtype) * product + scale.to(h.dtype) * change
        return directed

    def scale(self) -> Tensor:
        """M / n, `[out]` in float32."""
        return self.lora_magnitude_vector / self.lengths()

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """n, `[out]`, without gradient."""
        lengths: Tensor = torch.linalg.vector_norm(self.directed(), dim=1)
        return lengths

    def directed(self) -> Tensor:
        """W + s B A, `[out, in]` in float32."""
        directed: Tensor = matrix_of(self._module[0]).float() + self.direction.update()
        return directed

    def move_to(self, module: nn.Module) -> None:
        """Measures this map from now on: the stock one that took the place of a map in 4 bits."""
        self._module[0] = module

    def kept(self) -> dict[str, Tensor]:
        """A, B and m, by the names that PEFT gives them."""
        return {**self.direction.state_dict(), "lora_magnitude_vector": self.lora_magnitude_vector.detach()}


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """From the layout of a module's weight to `[out, in]`, or back."""
    return weight.T if isinstance(module, Conv1D) else weight
