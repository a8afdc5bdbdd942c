"""The network of a head: pooling over a row's tokens, then scores of labels.

    linear    W z + b                      W: C x D
    low_rank  B A z + b                    A: r x D,  B: C x r
    bilinear  (A z)' M_c (A z) + v_c' A z + b_c       A: r x D,  M: C x r x r,  v: C x r
    mlp       W relu(V z + a) + b          V: m x D,  W: C x m

z is the pooled state, in float32. With a mix of layers, h = gamma sum_l softmax(s)_l h_l first (Peters et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.readout import Readout, Span
from keeptune.methods._choices import Kind, Pooling


class ReadoutNet(Readout):
    """A head on the states of one layer, or on a mix of all.

    Args:
        labels: in the order of the scores.
        width: D.
        kind: the function above.
        inner: r or m.
        pooling: how a row's tokens become z.
        layer: index of the states (0: the embeddings), or None for a mix of `layers` states.
        layers: states that there are.
        dropout: on z, in training.
    """

    def __init__(
        self,
        labels: Sequence[str],
        width: int,
        *,
        kind: Kind,
        inner: int,
        pooling: Pooling,
        layer: int | None,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.labels, self.kind, self.pooling, self.layer = tuple(labels), kind, pooling, layer
        self.dropout = dropout
        count, reads = len(labels), width if kind == "linear" else inner
        self.bias = nn.Parameter(torch.zeros(count))
        self.weight = nn.Parameter(torch.zeros(count, reads))
        if kind != "linear":
            self.down = nn.Parameter(torch.zeros(inner, width))
        if kind == "bilinear":
            self.products = nn.Parameter(torch.zeros(count, inner, inner))
        if kind == "mlp":
            self.down_bias = nn.Parameter(torch.zeros(inner))
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(width))
        if layer is None:
            self.mix, self.gamma = nn.Parameter(torch.zeros(layers)), nn.Parameter(torch.ones(()))

    @property
    def lowest(self) -> int:
        """The states that it reads; a mix reads all."""
        return 0 if self.layer is None else self.layer

    def start(self, generator: torch.Generator) -> None:
        """The map down uniform within 1/sqrt(D), the rest zero: equal scores for every label, an even mix, a mean."""
        if self.kind != "linear":
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)

    def scores(self, layers: Sequence[Tensor], spans: Sequence[Span]) -> Tensor:
        """`[S, C]`."""
        wide = torch.promote_types(layers[-1].dtype, torch.float32)
        tokens = torch.cat([torch.arange(start, end) for start, end in spans]).to(layers[-1].device)
        if self.layer is not None:
            states = layers[self.layer][tokens].to(wide)
        else:
            shares = (self.gamma * self.mix.softmax(dim=0)).to(wide)
            states = torch.einsum("l,ltd->td", shares, torch.stack([layer[tokens] for layer in layers]).to(wide))
        z = self.pooled(states, [end - start for start, end in spans])
        return self.of_pooled(functional.dropout(z, self.dropout, self.training))

    def pooled(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """`[T, D]` of rows of these lengths to `[S, D]`."""
        sizes = torch.tensor(lengths, device=states.device)
        ends = sizes.cumsum(0)
        if self.pooling == "cls":
            return states[ends - sizes]
        if self.pooling == "last":
            return states[ends - 1]
        row = torch.repeat_interleave(torch.arange(len(sizes), device=states.device), sizes)
        if self.pooling == "mean":
            weights = (1 / sizes.to(states.dtype))[row]
        else:
            energies = states @ self.query.to(states.dtype)
            highest = energies.new_full((len(sizes),), -torch.inf).scatter_reduce(0, row, energies.detach(), "amax")
            powers = (energies - highest[row]).exp()
            weights = powers / powers.new_zeros(len(sizes)).index_add(0, row, powers)[row]
        return states.new_zeros(len(sizes), states.shape[1]).index_add(0, row, states * weights[:, None])

    def of_pooled(self, z: Tensor) -> Tensor:
        """`[S, D]` to `[S, C]`."""
        if self.kind == "linear":
            return functional.linear(z, self.weight.to(z.dtype), self.bias.to(z.dtype))
        bias = self.down_bias.to(z.dtype) if self.kind == "mlp" else None
        inner = functional.linear(z, self.down.to(z.dtype), bias)
        inner = functional.relu(inner) if self.kind == "mlp" else inner
        scores = functional.linear(inner, self.weight.to(z.dtype), self.bias.to(z.dtype))
        if self.kind == "bilinear":
            scores = scores + torch.einsum("sr,crq,sq->sc", inner, self.products.to(z.dtype), inner)
        return scores
