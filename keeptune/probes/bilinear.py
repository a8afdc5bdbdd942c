"""A bilinear form of two words' states: which is the head of which."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.probes import Kind, Probe

if TYPE_CHECKING:
    from torch import nn


class Bilinear(Probe):
    """Score of word j as the head of word i: h_i' L R h_j, with L: D x r and R: r x D (Hewitt & Liang 2019).

    Their constant is left out: it is added to every candidate alike and changes no softmax.
    """

    serves: ClassVar[frozenset[Kind]] = frozenset({"edges"})

    rank: int = Field(1000, ge=1, le=10_000, description="r; at most the width has an effect")

    def net(self, width: int, classes: int, kind: Kind) -> nn.Module:
        """Both factors uniform within 0.05, as in their code."""
        import torch
        from torch import Tensor, nn

        class Form(nn.Module):
            def __init__(self, rank: int) -> None:
                super().__init__()
                self.left = nn.Parameter(torch.empty(width, rank).uniform_(-0.05, 0.05))
                self.right = nn.Parameter(torch.empty(rank, width).uniform_(-0.05, 0.05))

            def forward(self, states: Tensor) -> Tensor:
                return (states @ self.left) @ (states @ self.right.T).transpose(1, 2)

        return Form(min(self.rank, width))

    @property
    def title(self) -> str:
        """With its rank."""
        return f"bilinear, rank {self.rank}"
