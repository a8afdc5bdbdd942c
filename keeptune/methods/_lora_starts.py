"""Starts of LoRA from the weight's own parts: PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775).

    pissa    W = U S V',   B = U_r (S_r / s)^1/2,   A = (S_r / s)^1/2 V_r'
    olora    W = Q R,      B = Q_r,                 A = R_r

Both papers take s B0 A0 out of the frozen weight, so that the model starts as the base and trains its principal part.
Here the weight stays as it is and the update is

    dy = s (B A drop(x) - B0 A0 x),    B0, A0 frozen

which is the same function with the same gradients, and leaves the base bitwise as it was. A file holds it as a plain
LoRA of twice the rank: [A; A0] and [B, -B0].
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.core.errors import PlanError
from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection
from keeptune.models.quantize import matrix_of

Start = Literal["pissa", "olora"]


class Shifted(Delta):
    """`s (B A drop(x) - B0 A0 x)`: a low-rank update counted from where it started.

    Attributes:
        lora_A: `[rank, in]`.
        lora_B: `[out, rank]`.
        first_A, first_B: A0 and B0; not trained.
    """

    first_A: Tensor
    first_B: Tensor

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.lora_A, self.lora_B = nn.Parameter(torch.zeros(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        self.register_buffer("first_A", torch.zeros(rank, inputs))
        self.register_buffer("first_B", torch.zeros(outputs, rank))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., in]` to `[..., out]`; exactly zero at the start."""
        dropped = functional.dropout(x, self.dropout, self.training)
        return self._product(dropped, self.lora_A, self.lora_B) - self._product(x, self.first_A, self.first_B)

    def start(self, module: Any, how: Start) -> None:
        """Both pairs from the weight of the map."""
        first, second = factors(matrix_of(module).detach(), len(self.lora_A), self.scale, how)
        with torch.no_grad():
            for pair in ((self.lora_A, self.lora_B), (self.first_A, self.first_B)):
                pair[0].copy_(first)
                pair[1].copy_(second)

    def update(self) -> Tensor:
        """`s (B A - B0 A0)`, `[out, in]` in float32."""
        kept = self.kept()
        return self.scale * (kept["lora_B"].float() @ kept["lora_A"].float())

    def kept(self) -> dict[str, Tensor]:
        """The same update as a plain LoRA of twice the rank."""
        above, below = torch.cat([self.lora_A, self.first_A]), torch.cat([self.lora_B, -self.first_B], dim=1)
        return {"lora_A": above.detach(), "lora_B": below.detach()}

    def _product(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, first.to(x.dtype)) * self.scale, second.to(x.dtype))


def factors(weight: Tensor, rank: int, scale: float, how: Start) -> tuple[Tensor, Tensor]:
    """A0 `[rank, in]` and B0 `[out, rank]` of a weight `[out, in]`.

    Computed in float64 and rounded once.

    Raises:
        PlanError: the rank is larger than the weight's (E-METHOD-RANK).
    """
    if rank > min(weight.shape):
        raise PlanError(
            f"a matrix of {weight.shape[0]} x {weight.shape[1]} has no {rank} principal parts.",
            code="E-METHOD-RANK",
            where={"key": "rank"},
            fix=f"Use a rank of at most {min(weight.shape)}, or `init: zero`.",
        )
    if how == "pissa":
        left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        return root[:, None] * right[:rank], left[:, :rank] * root
    orthogonal, triangular = torch.linalg.qr(weight.double())
    return triangular[:rank], orthogonal[:, :rank]
