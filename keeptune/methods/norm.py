"""Norm tuning: gains and biases of the norms alone (Zhao et al. 2024, arXiv:2312.11420; LayerNorm tuning).

    y = n(x) (g + dg) + (b + db),    n(x) = (x - mean) / sqrt(var + eps);  RMSNorm: x / sqrt(mean x^2 + eps), no b

dg and db start as zero and stand beside the frozen norm as `n(x) dg + db`, with n(x) computed anew. Training them is
training the norm itself, step by step, but it comes off bitwise, and every row can have its own. Norms of heads inside
attention (Qwen 3, Gemma 3) stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.core.shape import ModelShape
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.models.anatomy import anatomy_of, norms_over_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Norm(Method):
    """Trains the norms, and nothing else."""

    mergeable: ClassVar[bool] = True

    biases: bool = Field(True, description="Train their biases too, where they have any.")
    final: bool = Field(True, description="Train the norm before the head too.")
    layers: Layers = Field("all", description="The blocks by index, or all.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One delta on each norm."""
        from keeptune.methods._norm_shift import NormShift

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
        import torch

        with torch.no_grad():
            for place, delta, _ in placed:
                norm = model.get_submodule(place.path)
                norm.weight.copy_(norm.weight.float() + delta.gain)
                if delta.bias is not None:
                    norm.bias.copy_(norm.bias.float() + delta.bias)
