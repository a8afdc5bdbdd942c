"""A bilinear form of two words' states: which is the head of which."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from keeptune.probes import Kind, Probe

if TYPE_CHECKING:
    from torch import nn


class Bilinear(Probe):
    """Score of word j as the head of word i: h_i' L R h_j, with L: D x r and R: r x D (Hewitt & Liang 2019).

    Their constant is left out: it is added to every candidate alike and changes no softmax. The factors begin uniform
    within (D^2 r)^(-1/4) instead of 0.05: on states of standard deviation 1 the first scores then deviate by 1/3
    whatever D and r, where 0.05 would begin with confident random heads.
    """

    serves: ClassVar[frozenset[Kind]] = frozenset({"edges"})

    rank: int = Field(1000, ge=1, le=10_000, description="r; at most the width has an effect")

    def net(self, width: int, classes: int, kind: Kind) -> nn.Module:
        """Both factors uniform within (D^2 r)^(-1/4)."""
        import torch
        from torch import Tensor, nn

        class Form(nn.Module):
            def __init__(self, rank: int) -> None:
                super().__init__()
                most = (width**2 * rank) ** -0.25
                self.left = nn.Parameter(torch.empty(width, rank).uniform_(-most, most))
                self.right = nn.Parameter(torch.empty(rank, width).uniform_(-most, most))

            def forward(self, states: Tensor) -> Tensor:
                return (states @ self.left) @ (states @ self.right.T).transpose(1, 2)

        return Form(min(self.rank, width))

    @property
    def title(self) -> str:
        """With its rank."""
        return f"bilinear, rank {self.rank}"
