"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from keeptune.stages.optimizers import Named, Optimizer

if TYPE_CHECKING:
    import torch


class AdamW(Optimizer):
    """Two moments per parameter: 8 bytes each in float32."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """One kernel for all parameters, where all of them are on a GPU or on a CPU."""
        import torch

        devices = {parameter.device.type for _, parameter in parameters}
        fused = devices in ({"cpu"}, {"cuda"})
        return torch.optim.AdamW(
            self.groups(parameters), lr=self.lr, betas=self.betas, eps=self.eps, fused=fused, foreach=False
        )
