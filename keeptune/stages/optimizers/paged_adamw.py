"""AdamW whose moments move to the processor's memory when a GPU's is short (arXiv:2305.14314), by bitsandbytes.

The moments are in memory that the driver pages between the two by itself. Without a GPU there is nothing to page:
plain AdamW, which computes the same update, takes its place, and an event says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from keeptune.stages.optimizers import Named, Optimizer
from keeptune.stages.optimizers.adamw import AdamW

if TYPE_CHECKING:
    import torch


class PagedAdamW(Optimizer):
    """Two moments per parameter in float32, paged."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    def stand_in(self, parameters: Named) -> Optimizer | None:
        """AdamW with the same settings, where the parameters are on no GPU."""
        if all(parameter.is_cuda for _, parameter in parameters):
            return None
        return AdamW(**{field: getattr(self, field) for field in type(self).model_fields})

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """Raises MissingDependency without bitsandbytes."""
        from keeptune.models.bitsandbytes_library import bitsandbytes_for

        library = bitsandbytes_for("optimizer 'paged_adamw'")
        optimizer: torch.optim.Optimizer = library.optim.PagedAdamW32bit(
            self.groups(parameters), lr=self.lr, betas=self.betas, eps=self.eps
        )
        return optimizer
