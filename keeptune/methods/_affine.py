"""What is trained of the norms beside bottleneck adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class Affine(Delta):
    """`h * g + b` beside a norm, both starting as zero.

    Attributes:
        gain: `[D]`.
        bias: `[D]`, where the norm has one.
    """

    def __init__(self, width: int, *, biased: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width)) if biased else None

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., D]`."""
        change = h * self.gain.to(h.dtype)
        return change if self.bias is None else change + self.bias.to(h.dtype)


def affine_of(model: PreTrainedModel, path: str) -> Affine:
    """The affine map of the norm at `path`; it has a bias where the norm has one."""
    norm = model.get_submodule(path)
    return Affine(len(norm.weight), biased=getattr(norm, "bias", None) is not None)
