"""The delta of AdaLoRA: a low-rank update in the form of singular triplets, with what each entry was worth so far.

dW = s P diag(lambda) Q,    s = alpha / (r_0 + 1e-5);  in files lora_B, lora_E, lora_A
I = |w dL/dw|    Ibar <- b1 Ibar + (1 - b1) I    U <- b2 U + (1 - b2) |I - Ibar|    s(w) = Ibar U
S_i = s(lambda_i) + mean_j s(Q_ij) + mean_j s(P_ji)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.deltas import Delta, Factors
from keeptune.engine.selection import Selection

SIDES = ("lora_A", "lora_E", "lora_B")


class Triplets(Delta):
    """`s P diag(lambda) Q drop(x)`, computed in the dtype of x.

    Attributes:
        lora_A: Q `[r, in]`.
        lora_E: lambda `[r, 1]`.
        lora_B: P `[out, r]`.
        alive: `[r]`; a triplet outside it was pruned.
    """

    alive: Tensor

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.inputs, self.outputs, self.scale, self.dropout = inputs, outputs, scale, dropout
        self._make(rank)

    def _make(self, rank: int) -> None:
        self.lora_A = nn.Parameter(torch.zeros(rank, self.inputs))
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(torch.zeros(self.outputs, rank))
        self.register_buffer("alive", torch.ones(rank, dtype=torch.bool))
        for side in SIDES:
            for kind in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{side}_{kind}", torch.zeros_like(getattr(self, side).data))

    @property
    def rank(self) -> int:
        """Triplets, pruned ones included."""
        return len(self.alive)

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        inner = functional.linear(functional.dropout(x, self.dropout, self.training), self.lora_A.to(x.dtype))
        inner = inner * (self.lora_E.to(x.dtype).flatten() * self.scale)
        return functional.linear(inner, self.lora_B.to(x.dtype))

    def factors(self) -> Factors:
        """Q, P diag(lambda) and s."""
        return Factors(self.lora_A, self.lora_B * self.lora_E.T, self.scale, self.dropout if self.training else 0.0)

    def update(self) -> Tensor:
        """dW, `[out, in]` in float32."""
        return self.scale * (self.lora_B.float() @ (self.lora_E.float() * self.lora_A.float()))

    def kept(self) -> dict[str, Tensor]:
        """Without the pruned triplets."""
        keep = self.alive | (self.lora_E.detach().flatten() != 0)
        whole = {side: getattr(self, side).detach() for side in SIDES}
        return whole if keep.all() else {side: w[:, keep] if side == "lora_B" else w[keep] for side, w in whole.items()}

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the number of triplets that pruning left."""
        inward = tensors.get("lora_A")
        if inward is not None and inward.ndim == 2 and len(inward) != self.rank:
            self._make(len(inward))

    @torch.no_grad()
    def observe(self, beta1: float, beta2: float) -> None:
        """Takes the gradients of a step into account; without any, the step was skipped."""
        for side in SIDES:
            weight = getattr(self, side)
            if weight.grad is not None:
                now = (weight * weight.grad).abs()
                sensitivity = getattr(self, f"{side}_sensitivity").mul_(beta1).add_(now, alpha=1 - beta1)
                difference = (now - sensitivity).abs()
                getattr(self, f"{side}_uncertainty").mul_(beta2).add_(difference, alpha=1 - beta2)

    def scores(self) -> Tensor:
        """S `[r]`."""
        entry = {side: getattr(self, f"{side}_sensitivity") * getattr(self, f"{side}_uncertainty") for side in SIDES}
        scores: Tensor = entry["lora_E"].flatten() + entry["lora_A"].mean(1) + entry["lora_B"].mean(0)
        return scores

    @torch.no_grad()
    def prune(self) -> None:
        """Sets lambda of the triplets that are not alive to zero."""
        self.lora_E.masked_fill_(~self.alive[:, None], 0.0)

    def skew(self) -> list[Tensor]:
        """How far P and Q are from orthogonal: ||P'P - 1|| and ||QQ' - 1||, Frobenius norms."""
        one = torch.eye(self.rank, device=self.lora_A.device, dtype=self.lora_A.dtype)
        return [(self.lora_A @ self.lora_A.T - one).norm(), (self.lora_B.T @ self.lora_B - one).norm()]
