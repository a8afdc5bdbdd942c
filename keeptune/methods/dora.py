"""DoRA: a low-rank update of a weight's direction and a trained length per output (Liu et al. 2024, arXiv:2402.09353).

    W' = m (W + s B A) / n,    n = || W + s B A ||,    m: out,  norms over each output's row

so that y = W' x + b = h + (m / n - 1) (h - b) + (m / n) s B A drop(x), with h = W x + b from the frozen map. As in the
paper (section 4.3) no gradient flows through n. m starts as || W || and B as zero, so nothing changes at the start. The
low-rank part is `lora`'s. The bias is not scaled. Where other adapters added to h before, their share is scaled too.

Every forward pass makes W + s B A once to measure n; `merge` it where speed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from keeptune.core.shape import ModelShape
from keeptune.engine.compositions import replace
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._low_rank_settings import Alpha, Alphas, Dropout, Rank, Ranks, RsLoRA, Targets
from keeptune.methods.lora import LoRA, held_inputs, targeted_maps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        from keeptune.methods._directed import Directed

        low_rank = self.lora.place(model)
        modules = [model.get_submodule(place.path) for place, _, _ in low_rank]
        return [
            Placed(place, Directed(delta, module), replace)
            for (place, delta, _), module in zip(low_rank, modules, strict=True)
        ]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """A and B as LoRA's, m as the length of each row."""
        import torch

        self.lora.start(model, [Placed(place, delta.direction) for place, delta, _ in placed], seed)
        with torch.no_grad():
            for _, delta, _ in placed:
                delta.to(model.device)  # where the weight is that its lengths are taken of
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
        import torch

        from keeptune.methods._directed import oriented

        modules = [model.get_submodule(place.path) for place, _, _ in placed]
        with torch.no_grad():
            for module, (_, delta, _) in zip(modules, placed, strict=True):
                delta.move_to(module)
                weight = delta.scale()[:, None] * delta.directed()
                module.weight.copy_(oriented(module, weight).to(module.weight.dtype))
