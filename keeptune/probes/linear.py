"""A linear map of the state, of full rank or limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from keeptune.probes import Kind, Probe

if TYPE_CHECKING:
    from torch import nn


class Linear(Probe):
    """W h + b; with a rank r, W2 (W1 h + b1) + b2 with W1: r x D and W2: C x r (Hewitt & Liang 2019).

    Heads have no linear probe: a linear function of [h_i; h_j] ranks the same heads for every word.
    """

    rank: int | None = Field(None, ge=1, le=10_000, description="of W; unset: not limited")

    def net(self, width: int, classes: int, kind: Kind) -> nn.Module:
        """One map, or two without anything between."""
        from torch import nn

        if self.rank is None:
            return nn.Linear(width, classes)
        return nn.Sequential(nn.Linear(width, self.rank), nn.Linear(self.rank, classes))

    @property
    def title(self) -> str:
        """With its rank."""
        return "linear" if self.rank is None else f"linear, rank {self.rank}"
