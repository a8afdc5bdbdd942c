"""The keys and values of one layer's prefix: parameters themselves, or made by the network that all layers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.positions import Room
from keeptune.engine.prefixes import Prefixed


class Stem(Room):
    """What the layers of a reparameterised prefix share: tanh(E W_in' + b_in), p x m.

    Attributes:
        embedding: `[p, D]`.
        down: `[m, D]`.
        down_bias: `[m]`.
    """

    def __init__(self, room: int, length: int, width: int, hidden: int | None) -> None:
        super().__init__(room)
        if hidden is not None:
            self.embedding = nn.Parameter(torch.zeros(length, width))
            self.down = nn.Parameter(torch.zeros(hidden, width))
            self.down_bias = nn.Parameter(torch.zeros(hidden))

    def inner(self) -> Tensor:
        """`[p, m]`."""
        return torch.tanh(functional.linear(self.embedding, self.down, self.down_bias))

    def start(self, generator: torch.Generator) -> None:
        """E normal, the map uniform within 1/sqrt(D)."""
        for name, parameter in self.named_parameters():
            bound = parameter.shape[-1] ** -0.5 if name == "down" else self.embedding.shape[1] ** -0.5
            if name == "embedding":
                parameter.data.normal_(generator=generator)
            else:
                parameter.data.uniform_(-bound, bound, generator=generator)

    def kept(self) -> dict[str, Tensor]:
        """Nothing: it serves training alone."""
        return {}


class LayerPrefix(Prefixed):
    """One layer's prefix.

    Attributes:
        prefix_keys, prefix_values: `[p, G, K]`, without a network.
        up: `[2 G K, m]`, with one.
        up_bias: `[2 G K]`.
        prefix_gate: `[H]`, or None.
    """

    offset: Tensor | None

    def __init__(self, shape: tuple[int, int, int], hidden: int | None, gates: int | None, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.stem: list[Stem] = []  # in a list, so that it is not a submodule of every layer
        if hidden is None:
            self.prefix_keys, self.prefix_values = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
        else:
            outputs = 2 * shape[1] * shape[2]
            self.up, self.up_bias = nn.Parameter(torch.zeros(outputs, hidden)), nn.Parameter(torch.zeros(outputs))
        self.register_buffer("offset", None, persistent=False)
        self.prefix_gate = None if gates is None else nn.Parameter(torch.zeros(gates))

    def keys_values(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v, `[p, G, K]` each, with dropout in training."""
        keys, values = self.plain()
        if self.training and self.dropout:
            return functional.dropout(keys, self.dropout), functional.dropout(values, self.dropout)
        return keys, values

    def plain(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v without dropout."""
        if not self.stem:
            return self.prefix_keys, self.prefix_values
        made = functional.linear(self.stem[0].inner(), self.up, self.up_bias)
        length, heads, width = self.shape
        made = made.view(length, 2, heads, width)
        made = made if self.offset is None else made + self.offset
        return made[:, 0], made[:, 1]

    def start(self, generator: torch.Generator, states: Tensor | None) -> None:
        """Random, or exactly `states` `[p, 2, G, K]`; the gate stays zero."""
        with torch.no_grad():
            if not self.stem:
                random = torch.randn(self.shape[0], 2, *self.shape[1:], generator=generator)
                chosen = random if states is None else states
                self.prefix_keys.copy_(chosen[:, 0])
                self.prefix_values.copy_(chosen[:, 1])
            elif states is None:
                bound = self.up.shape[1] ** -0.5
                self.up.uniform_(-bound, bound, generator=generator)
                self.up_bias.uniform_(-bound, bound, generator=generator)
            else:
                self.offset = states.to(self.up)

    def kept(self) -> dict[str, Tensor]:
        """P_k and P_v, however they are made, and the gate."""
        if not self.stem:
            return self.state_dict()
        keys, values = (side.detach() for side in self.plain())
        gate = {} if self.prefix_gate is None else {"prefix_gate": self.prefix_gate.detach()}
        return {"prefix_keys": keys, "prefix_values": values, **gate}
