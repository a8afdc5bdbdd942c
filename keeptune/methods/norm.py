"""Norm tuning: gains and biases of the norms alone (Zhao et al. 2024, arXiv:2312.11420; LayerNorm tuning).

    y = n(x) (g + dg) + (b + db),    n(x) = (x - mean) / sqrt(var + eps);  RMSNorm: x / sqrt(mean x^2 + eps), no b

dg and db start as zero and stand beside the frozen norm as `n(x) dg + db`, with n(x) computed anew. Training them is
training the norm itself, step by step, but it comes off bitwise, and every row can have its own. Norms of heads inside
attention (Qwen 3, Gemma 3) stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.deltas import Delta, Placed
from keeptune.engine.places import ModuleOutput
from keeptune.engine.selection import Selection
from keeptune.methods import Cost, Held, Method
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.models.anatomy import anatomy_of, norms_over_width


class Norm(Method):
    """Trains the norms, and nothing else."""

    mergeable: ClassVar[bool] = True

    biases: bool = Field(True, description="Train their biases too, where they have any.")
    final: bool = Field(True, description="Train the norm before the head too.")
    layers: Layers = Field("all", description="The blocks by index, or all.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One delta on each norm."""
        anatomy = anatomy_of(model)
        chosen = [anatomy.layers[index] for index in chosen_layers(self.layers, len(anatomy.layers))]
        places = [ModuleOutput(path, layer.index) for layer in chosen for path in norms_over_width(layer).values()]
        places += [ModuleOutput(anatomy.final_norm)] if self.final and anatomy.final_norm else []
        return [Placed(place, NormShift(model.get_submodule(place.path), biased=self.biases)) for place in places]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Zero, as they are made."""

    def cost(self, shape: ModelShape) -> Cost:
        """D per norm, and D per bias."""
        norms = sum(shape.norms_of(layer) for layer in chosen_layers(self.layers, shape.layers))
        norms += self.final and shape.final_norm_parameters > 0
        count = norms * (shape.norm_width if self.biases else shape.width)
        return Cost(count, 4 * count, held=Held(4.5 * norms * shape.width))

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """G + dg and b + db in float32, cast once."""
        with torch.no_grad():
            for place, delta, _ in placed:
                norm = model.get_submodule(place.path)
                norm.weight.copy_(norm.weight.float() + delta.gain)
                if delta.bias is not None:
                    norm.bias.copy_(norm.bias.float() + delta.bias)


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
