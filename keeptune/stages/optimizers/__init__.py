"""One file per optimiser; learning rate, schedule and clipping are the same for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keeptune.core.spec import Spec

if TYPE_CHECKING:
    import torch

# (name, parameter); the names say what decays.
Named = Sequence[tuple[str, "torch.nn.Parameter"]]


class Optimizer(Spec, shelf="keeptune.stages.optimizers"):
    """A rule that turns gradients into updates, with its rate at every step."""

    lr: float = Field(2e-4, gt=0, le=1e12, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the rate falls after warmup")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decay of matrices (never of biases and norms)")
    clip: float = Field(1.0, ge=0, description="largest norm of the whole gradient; 0: not clipped")

    def factor(self, step: int, total: int) -> float:
        """Share of the peak rate at `step` (from 0) of `total`: (step + 1) / warmup steps, then the schedule."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        left = 1 - (step - warm) / max(1, total - warm)
        return max(0.0, left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

    def groups(self, parameters: Named) -> list[dict[str, Any]]:
        """Two groups: matrices decay, vectors and scalars do not."""
        matrices = [parameter for _, parameter in parameters if parameter.ndim > 1]
        rest = [parameter for _, parameter in parameters if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """The optimiser over float32 parameters."""
        raise NotImplementedError
