"""DoRA: a low-rank update of a weight's direction and a trained length per output (Liu et al. 2024, arXiv:2402.09353).

    W' = m (W + s B A) / n,    n = || W + s B A ||,    m: out,  norms over each output's row

so that y = W' x + b = h + (m / n - 1) (h - b) + (m / n) s B A drop(x), with h = W x + b from the frozen map. As in the
paper (section 4.3) no gradient flows through n. m starts as || W || and B as zero, so nothing changes at the start. The
low-rank part is `lora`'s. The bias is not scaled. Where other adapters added to h before, their share is scaled too.

Every forward pass makes W + s B A once to measure n; `merge` it where speed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from keeptune.core.shape import ModelShape
from keeptune.engine.deltas import Delta, Placed, replace
from keeptune.engine.selection import Selection
from keeptune.methods import Cost, Held, Method
from keeptune.methods._low_rank_settings import Alpha, Alphas, Dropout, Rank, Ranks, RsLoRA, Targets
from keeptune.methods.lora import LoRA, LowRank, held_inputs, targeted_maps
from keeptune.models.quantize import matrix_of


class DoRA(Method):
    """Low-rank updates of linear maps with a length of their own per output."""

    mergeable: ClassVar[bool] = True

    rank: Rank = 16
    alpha: Alpha = None
    dropout: Dropout = 0.0
    targets: Targets = "all"
    rslora: RsLoRA = False
    rank_pattern: Ranks = Field({})
    alpha_pattern: Alphas = Field({})

    @property
    def lora(self) -> LoRA:
        """The low-rank part."""
        return LoRA(**{key: value for key, value in self.to_dict().items() if key != "name"})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One delta on the output of each target."""
        low_rank = self.lora.place(model)
        modules = [model.get_submodule(place.path) for place, _, _ in low_rank]
        return [
            Placed(place, Directed(delta, module), replace)
            for (place, delta, _), module in zip(low_rank, modules, strict=True)
        ]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """A and B as LoRA's, m as the length of each row."""
        self.lora.start(model, [Placed(place, delta.direction) for place, delta, _ in placed], seed)
        with torch.no_grad():
            for _, delta, _ in placed:
                delta.lora_magnitude_vector.copy_(delta.lengths())

    def cost(self, shape: ModelShape) -> Cost:
        """Sum of rank * (in + out) + out over the targets."""
        maps = self.lora.sizes(shape)
        count = sum(rank * (inputs + outputs) + outputs for rank, inputs, outputs in maps)
        return Cost(count, 4 * count, held=self._held(shape))

    def _held(self, shape: ModelShape) -> Held:
        """Beside what LoRA holds, twice the output of each target."""
        outputs = 2 * sum(width for _, _, width in self.lora.sizes(shape))
        modules, ranks = self.lora.held(shape)
        inputs = held_inputs(targeted_maps(shape, self.targets))
        return Held(modules + outputs, inputs + (ranks or 0) + outputs)

    def saved_settings(self) -> dict[str, Any]:
        """With alpha as a number."""
        return {**self.to_dict(), "alpha": float(self.alpha or 2 * self.rank)}

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """W' in float32, cast once to the dtype of W."""
        modules = [model.get_submodule(place.path) for place, _, _ in placed]
        with torch.no_grad():
            for module, (_, delta, _) in zip(modules, placed, strict=True):
                delta.move_to(module)
                weight = delta.scale()[:, None] * delta.directed()
                module.weight.copy_(_oriented(module, weight).to(module.weight.dtype))


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


def _oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """From the layout of a module's weight to `[out, in]`, or back."""
    return weight.T if isinstance(module, Conv1D) else weight
