"""SpotTune's policy: from a row's prompt to one decision per layer, frozen or tuned.

    z = W2 relu(W1 norm(e) + b1) + b2,    z: L x 2,    e: the mean embedding of the prompt
    y = softmax((z + g) / tau),    g = -log(-log u), u uniform    (Gumbel-softmax, Jang et al. 2017, arXiv:1611.01144)
    a = onehot(argmax y) + y - stopgradient(y),    its second part

In evaluation g = 0. The gradient is y's in both cases, the value exactly 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.decisions import Decider


class Policy(Decider):
    """The network, its temperature, and what it has decided.

    Args:
        width: D.
        hidden: rows of W1.
        layers: L.

    Attributes:
        tau: temperature.
        decisions: `[2, L]` how many rows of training left each layer frozen, and tuned it, without noise.
        settled: `[L]` 1 for layers that every row tunes from now on; all 0 while the network decides.
    """

    tau: Tensor
    decisions: Tensor
    settled: Tensor

    def __init__(self, width: int, hidden: int, layers: int, temperature: float) -> None:
        super().__init__()
        self.inner, self.inner_bias = nn.Parameter(torch.zeros(hidden, width)), nn.Parameter(torch.zeros(hidden))
        self.outer = nn.Parameter(torch.zeros(2 * layers, hidden))
        self.outer_bias = nn.Parameter(torch.zeros(2 * layers))
        self.register_buffer("tau", torch.tensor(temperature))
        self.register_buffer("decisions", torch.zeros(2, layers, dtype=torch.int32))
        self.register_buffer("settled", torch.zeros(layers, dtype=torch.int32))
        self._made: Tensor | None = None

    def decide(self, pooled: Tensor) -> Tensor:
        """`[B, L]`, and in training a note of it."""
        if self.settled.any():
            return self.settled.float().expand(len(pooled), -1)
        logits = self.logits(pooled)
        gates = straight_through(logits, self.tau, noisy=self.training)
        if self.training and torch.is_grad_enabled():
            self._made = gates
            with torch.no_grad():
                tuned = logits.argmax(-1).sum(0, dtype=torch.int32)
                self.decisions += torch.stack([len(pooled) - tuned, tuned])
        return gates

    def logits(self, pooled: Tensor) -> Tensor:
        """`[B, L, 2]`."""
        normed = functional.layer_norm(pooled, pooled.shape[-1:])
        inner = torch.relu(functional.linear(normed, self.inner, self.inner_bias))
        return functional.linear(inner, self.outer, self.outer_bias).view(len(pooled), -1, 2)

    def made(self) -> Tensor | None:
        """`[B, L]`: what the last forward pass in training decided, once."""
        gates, self._made = self._made, None
        return gates

    def settle(self, count: int) -> None:
        """Ends deciding: the `count` layers that were tuned most often, for every row."""
        most = torch.argsort(self.decisions[1], descending=True, stable=True)[:count]
        self.settled.zero_()
        self.settled[most] = 1

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what a file settled on, which says what else the file holds."""
        if "settled" in tensors and tensors["settled"].shape == self.settled.shape:
            self.settled.copy_(tensors["settled"])

    def start(self, generator: torch.Generator, bias: float) -> None:
        """W1 and W2 uniform within 1/sqrt(inputs); b2 leans towards tuning, so that no layer is lost at once."""
        nn.init.kaiming_uniform_(self.inner, a=math.sqrt(5), generator=generator)
        nn.init.kaiming_uniform_(self.outer, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            self.outer_bias[1::2] = bias


def straight_through(logits: Tensor, tau: Tensor | float, *, noisy: bool) -> Tensor:
    """`[B, L]`: 1 where the second of two logits wins, with the gradient of its softmax."""
    noise = -torch.empty_like(logits).exponential_().log() if noisy else 0.0
    soft = torch.softmax((logits + noise) / tau, dim=-1)[..., 1]
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())
