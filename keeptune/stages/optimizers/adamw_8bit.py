"""AdamW with moments in 8 bits (arXiv:2110.02861), by bitsandbytes; on a CUDA GPU only."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.core.errors import PlanError
from keeptune.stages.optimizers import Named, Optimizer

if TYPE_CHECKING:
    import torch


class AdamW8bit(Optimizer):
    """Two moments per parameter: 2 bytes together instead of 8; small tensors stay in 32 bits."""

    moments: ClassVar[float] = 2

    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """Raises PlanError without a GPU (E-TRAIN-8BIT), MissingDependency without bitsandbytes."""
        if not all(parameter.is_cuda for _, parameter in parameters):
            raise PlanError(
                "the optimizer 'adamw_8bit' works on a CUDA GPU only, and this model is not on one.",
                code="E-TRAIN-8BIT",
                where={"key": "optimizer"},
                fix="Use `optimizer: adamw`, or `adafactor` where memory is short.",
            )
        from keeptune.models.bitsandbytes_library import bitsandbytes_for

        library = bitsandbytes_for("optimizer 'adamw_8bit'")
        optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(
            self.groups(parameters), lr=self.lr, betas=self.betas, eps=self.eps
        )
        return optimizer
