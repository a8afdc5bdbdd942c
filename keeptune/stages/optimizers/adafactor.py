"""Adafactor: a factored second moment, so nearly no state (arXiv:1804.04235)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.stages.optimizers import Named, Optimizer

if TYPE_CHECKING:
    import torch


class Adafactor(Optimizer):
    """A row and a column of moments per matrix. The rate is the one of the recipe, as prompt tuning uses it."""

    moments: ClassVar[float] = 0

    scale_parameter: bool = Field(False, description="multiply the rate by the root mean square of each parameter")
    clip_update: float = Field(1.0, gt=0, description="largest root mean square of an update")
    decay_rate: float = Field(-0.8, lt=0, description="exponent of the second moment's decay")

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """With `relative_step` and its own warmup off: rate and schedule are the recipe's."""
        from transformers.optimization import Adafactor as TransformersAdafactor

        optimizer: torch.optim.Optimizer = TransformersAdafactor(
            self.groups(parameters),
            lr=self.lr,
            scale_parameter=self.scale_parameter,
            relative_step=False,
            warmup_init=False,
            clip_threshold=self.clip_update,
            decay_rate=self.decay_rate,
        )
        return optimizer
