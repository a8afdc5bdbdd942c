"""Muon for the matrices inside the blocks, AdamW for the embedding and the norms.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): the momentum of a
matrix is replaced by the nearest semi-orthogonal matrix, W <- W - lr * sqrt(max(1, rows/cols)) * msign(M).
msign is computed by five quintic Newton-Schulz steps in bfloat16. The fused projections (qkv, gate_up)
are treated as the separate matrices that they are; matrices of one shape share one batched product.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from network import Network
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: they carry every singular value of [0.001, 1] into about [0.7, 1.2] in five steps."""


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of each matrix of `stack`: N x rows x columns, rows <= columns, bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = stack.bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Optimiser:
    """Both rules over one network; its state is a flat mapping of names to tensors.

    Args:
        network: the network whose parameters are updated in place from their `.grad`.
        matrix_rate: Muon's learning rate (spectral norm of one step).
        vector_rate: AdamW's learning rate.
        weight_decay: decoupled decay of the matrices, multiplied by the learning rate.
    """

    momentum = 0.95
    betas = (0.9, 0.95)
    epsilon = 1e-8

    def __init__(self, network: Network, matrix_rate: float, vector_rate: float, weight_decay: float) -> None:
        self.matrix_rate, self.vector_rate, self.weight_decay = matrix_rate, vector_rate, weight_decay
        self.count = 0
        self.parameters = dict(network.named_parameters())
        self.matrices = {n: p for n, p in self.parameters.items() if n.startswith("blocks.") and p.dim() == 2}
        self.vectors = {n: p for n, p in self.parameters.items() if n not in self.matrices}
        self.state = {f"momentum.{n}": torch.zeros_like(p) for n, p in self.matrices.items()}
        for n, p in self.vectors.items():
            self.state[f"mean.{n}"], self.state[f"square.{n}"] = torch.zeros_like(p), torch.zeros_like(p)

    @staticmethod
    def pieces(name: str, matrix: Tensor) -> tuple[Tensor, ...]:
        """The separate linear maps inside one stored matrix."""
        return matrix.chunk({"qkv": 3, "gate_up": 2}.get(name.rsplit(".", 1)[1], 1), dim=0)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update at `scale` times the two learning rates; the gradients are then cleared."""
        self.count += 1
        self._step_matrices(self.matrix_rate * scale)
        self._step_vectors(self.vector_rate * scale)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _step_matrices(self, rate: float) -> None:
        groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, matrix in self.matrices.items():
            gradient, momentum = matrix.grad, self.state[f"momentum.{name}"]
            assert gradient is not None
            momentum.lerp_(gradient, 1 - self.momentum)
            direction = gradient.lerp(momentum, self.momentum)
            matrix.mul_(1 - rate * self.weight_decay)
            for target, piece in zip(self.pieces(name, matrix), self.pieces(name, direction), strict=True):
                wide = (target, piece) if target.shape[0] <= target.shape[1] else (target.mT, piece.mT)
                groups[tuple(wide[0].shape)].append(wide)
        for group in groups.values():
            orthogonal = orthogonalise(torch.stack([piece for _, piece in group]))
            for (target, _), update in zip(group, orthogonal, strict=True):
                # A target that was turned had more rows than columns: its step is scaled by sqrt(rows/cols).
                tall = target.stride(0) == 1
                scale = (target.shape[1] / target.shape[0]) ** 0.5 if tall else 1.0
                target.add_(update.float(), alpha=-rate * scale)

    def _step_vectors(self, rate: float) -> None:
        first, second = self.betas
        for name, vector in self.vectors.items():
            gradient, mean, square = vector.grad, self.state[f"mean.{name}"], self.state[f"square.{name}"]
            assert gradient is not None
            mean.lerp_(gradient, 1 - first)
            square.lerp_(gradient.square(), 1 - second)
            deviation = (square / (1 - second**self.count)).sqrt_().add_(self.epsilon)
            vector.addcdiv_(mean, deviation, value=-rate / (1 - first**self.count))
