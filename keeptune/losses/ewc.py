"""EWC: weights are pulled back to where they were, those that mattered for the old ability harder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.losses import Anchor, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch


class EWC(Loss):
    """1/2 sum_i F_i (theta_i - theta0_i)^2; F is the diagonal of the Fisher information, scaled to mean 1.

    F_i is the mean over `fisher_rows` rows of (d log p0(row) / d theta_i)^2 at theta0. On rows that the base wrote
    itself (format `generated`) this estimates the true Fisher information; on other rows, the empirical one. Scaled to
    mean 1, `weight` means what it means for `l2_sp`. Elastic weight consolidation, arXiv:1612.00796.
    """

    pulls: ClassVar[bool] = True

    fisher_on: str = Field(
        "replay", description="the source that stands for what is to be kept; need not be trained on"
    )
    fisher_rows: int = Field(256, ge=1, le=1_000_000, description="rows of it that the importance is measured on")

    def rows(self, batch: PackedBatch) -> Tensor:
        """None: it runs over weights."""
        import torch

        return torch.zeros(0, dtype=torch.long)

    def sources(self) -> list[str]:
        """The source of the importance."""
        return [self.fisher_on]

    def pull(self, anchor: Anchor) -> tuple[Tensor, list[Tensor]]:
        """The value, and F (theta - theta0)."""
        import torch

        moved = [now.detach() - start for now, start in zip(anchor.now, anchor.start, strict=True)]
        pulled = [scale * change for scale, change in zip(anchor.importance, moved, strict=True)]
        parts = [(force * change).sum() for force, change in zip(pulled, moved, strict=True)]
        return torch.stack(parts).sum() / 2, pulled
