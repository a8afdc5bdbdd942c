"""A network with one or two hidden layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from keeptune.probes import Kind, Probe

if TYPE_CHECKING:
    from torch import nn


class MLP(Probe):
    """W2 relu(W1 z + b1) + b2, or with a second layer between (Hewitt & Liang 2019).

    z is the state h of a unit, or [h_i; h_j] for the score of word j as the head of word i. W1 [h_i; h_j] is computed
    as A h_i + B h_j, which is the same and needs no array of pairs of states.
    """

    serves: ClassVar[frozenset[Kind]] = frozenset({"labels", "edges"})

    depth: Literal[1, 2] = Field(1, description="hidden layers")
    width: int = Field(1000, ge=1, le=10_000, description="of each")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the states and behind each hidden layer")

    def net(self, width: int, classes: int, kind: Kind) -> nn.Module:
        """Weights as torch draws them."""
        from torch import Tensor, nn

        outputs = classes if kind == "labels" else 1
        behind: list[nn.Module] = [nn.ReLU(), nn.Dropout(self.dropout)]
        if self.depth == 2:
            behind += [nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(self.dropout)]
        behind.append(nn.Linear(self.width, outputs))
        if kind == "labels":
            return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, self.width), *behind)

        class Pairs(nn.Module):
            def __init__(self, inner: int, dropout: float) -> None:
                super().__init__()
                both = nn.Linear(2 * width, inner)
                self.both, self.dropout, self.behind = both, nn.Dropout(dropout), nn.Sequential(*behind)

            def forward(self, states: Tensor) -> Tensor:
                states = self.dropout(states)
                own, head = self.both.weight[:, :width], self.both.weight[:, width:]
                sums = (states @ own.T + self.both.bias)[:, :, None] + (states @ head.T)[:, None]
                scores: Tensor = self.behind(sums)[..., 0]
                return scores

        return Pairs(self.width, self.dropout)

    @property
    def title(self) -> str:
        """With its depth and width."""
        return f"MLP-{self.depth}, width {self.width}"
