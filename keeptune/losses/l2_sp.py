"""L2-SP: weights are pulled back to where the stage found them, not to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from keeptune.losses import Anchor, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch


class L2SP(Loss):
    """1/2 sum_i (theta_i - theta0_i)^2 over the weights that train; `weight` is the paper's alpha.

    For methods that train the base's own weights. Set the optimiser's weight decay to 0: it pulls to zero.
    arXiv:1802.01483.
    """

    pulls: ClassVar[bool] = True

    def rows(self, batch: PackedBatch) -> Tensor:
        """None: it runs over weights."""
        import torch

        return torch.zeros(0, dtype=torch.long)

    def pull(self, anchor: Anchor) -> tuple[Tensor, list[Tensor]]:
        """The value, and theta - theta0."""
        import torch

        moved = [now.detach() - start for now, start in zip(anchor.now, anchor.start, strict=True)]
        return torch.stack([change.square().sum() for change in moved]).sum() / 2, moved
