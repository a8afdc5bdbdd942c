"""The low-rank update of a linear map, and how updates go into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError
from keeptune.engine.deltas import Delta, Factors
from keeptune.engine.places import Placed
from keeptune.engine.selection import Selection
from keeptune.models.quantize import Linear4bit


class LowRank(Delta):
    """`s B A drop(x)`, computed in the dtype of x.

    Attributes:
        lora_A: `[rank, in]`.
        lora_B: `[out, rank]`.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        inner = functional.linear(functional.dropout(x, self.dropout, self.training), self.lora_A.to(x.dtype))
        return functional.linear(inner * self.scale, self.lora_B.to(x.dtype))

    def factors(self) -> Factors:
        """A, B and s; nothing is dropped outside training."""
        return Factors(self.lora_A, self.lora_B, self.scale, self.dropout if self.training else 0.0)

    def update(self) -> Tensor:
        """`s B A`, `[out, in]` in float32."""
        return self.scale * (self.lora_B.float() @ self.lora_A.float())


def fold_updates(model: PreTrainedModel, placed: Sequence[Placed]) -> None:
    """W + `delta.update()` in float32, cast once to the dtype of W."""
    modules = [model.get_submodule(place.path) for place, _, _ in placed]
    with torch.no_grad():
        for module, (_, delta, _) in zip(modules, placed, strict=True):
            update = delta.update()
            update = update.T if isinstance(module, Conv1D) else update
            module.weight.copy_((module.weight.float() + update).to(module.weight.dtype))


def require_untied(model: PreTrainedModel, modules: Sequence[Any]) -> None:
    """Refuses to merge into an embedding whose matrix is the head's too.

    Raises:
        PlanError: E-ADAPTER-MERGE.
    """
    head = model.get_output_embeddings()
    if head is not None and any(module.weight is head.weight for module in modules):
        raise PlanError(
            "the embedding shares its matrix with the head, which the update does not change.",
            code="E-ADAPTER-MERGE",
            fix="Keep it as an adapter.",
        )


def widths(module: nn.Module, path: str) -> tuple[int, int]:
    """Input and output width of a linear map; GPT-2 stores its weights as `[in, out]`.

    Raises:
        PlanError: the module is no linear map (E-METHOD-TARGET).
    """
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, (nn.Linear, Linear4bit)):
        return module.in_features, module.out_features
    raise PlanError(
        f"'{path}' is a {type(module).__name__}, not a linear map.", code="E-METHOD-TARGET", where={"key": "targets"}
    )
