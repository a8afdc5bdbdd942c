"""IA3: trained vectors that scale keys, values and the inside of the feed-forward (Liu et al. 2022, arXiv:2205.05638).

    k <- l_k * k,    v <- l_v * v,    FFN(x) = W_down (l_ff * f(W_up x)),    every l starts as ones

The vector l_ff scales what goes into the down map. A family that keeps queries, keys and values in one matrix gets one
vector over all of them, as in PEFT. Scaling by exact ones changes nothing, so the start is the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.core.shape import ModelShape
from keeptune.engine.compositions import multiply
from keeptune.engine.places import ModuleInput, ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods.lora import LoRA, held_inputs, targeted_maps
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS_AND_VALUES = ("k", "v", "qkv")


class IA3(Method):
    """Vectors that scale activations; they merge into the weights."""

    mergeable: ClassVar[bool] = True

    outputs: list[str] | None = Field(None, description="Linear maps whose output is scaled; null: keys and values.")
    inputs: list[str] = Field(["down"], description="Linear maps whose input is scaled.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One vector on each output and each input."""
        from keeptune.methods._low_rank import widths
        from keeptune.methods._scales import Scales

        anatomy = anatomy_of(model)
        outputs = self._outputs(anatomy.roles)
        layer_of = {path: layer.index for layer in anatomy.layers for path in layer.linear.values()}
        placed = []
        for path in anatomy.linear_paths(outputs):
            width = widths(model.get_submodule(path), path)[1]
            placed.append(Placed(ModuleOutput(path, layer_of[path]), Scales(width, column=True), multiply))
        for path in anatomy.linear_paths(self.inputs):
            width = widths(model.get_submodule(path), path)[0]
            placed.append(Placed(ModuleInput(path, layer_of[path]), Scales(width, column=False), multiply))
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Ones."""
        from torch import nn

        for _, delta, _ in placed:
            nn.init.ones_(delta.ia3_l)

    def cost(self, shape: ModelShape) -> Cost:
        """Sum of the widths that are scaled; L (2 G K + F) by default."""
        outputs = LoRA(targets=self._outputs([linear.role for linear in shape.linear_maps])).sizes(shape)
        inputs = LoRA(targets=self.inputs).sizes(shape)
        count = sum(width for _, _, width in outputs) + sum(width for _, width, _ in inputs)
        return Cost(count, 4 * count, held=Held(count, count + self._held_inputs(shape)))

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """Rows of W and b times l at an output, columns of W at an input, in float32, cast once."""
        import torch
        from transformers.pytorch_utils import Conv1D

        modules = [model.get_submodule(place.path) for place, _, _ in placed]
        with torch.no_grad():
            for module, (place, delta, _) in zip(modules, placed, strict=True):
                at_output = isinstance(place, ModuleOutput)
                rows = at_output != isinstance(module, Conv1D)
                scale = delta.ia3_l[:, None] if rows else delta.ia3_l[None]
                module.weight.copy_((module.weight.float() * scale).to(module.weight.dtype))
                if at_output and module.bias is not None:
                    module.bias.copy_((module.bias.float() * delta.ia3_l).to(module.bias.dtype))

    def _held_inputs(self, shape: ModelShape) -> int:
        """What the fused body holds beside the scaled vectors: the inputs of the maps that are served."""
        roles = [*self._outputs([linear.role for linear in shape.linear_maps]), *self.inputs]
        return held_inputs(targeted_maps(shape, roles))

    def _outputs(self, roles: Sequence[str]) -> list[str]:
        if self.outputs is not None:
            return self.outputs
        return [role for role in KEYS_AND_VALUES if role in roles]
