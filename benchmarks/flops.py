"""The useful arithmetic of a step: what no implementation can leave out.

    linear maps     2 P T forward, 2 P T for the gradient in their input        P parameters, T tokens
    low-rank pairs  2 r (in + out) T forward, twice that backward
    attention       2 D (L + 1) L for a segment of L tokens, causal half of q k and of a v; twice that backward
    head            2 V D N forward, 2 V D N for the gradient in the hidden states, on the N supervised positions

Left out, because nothing needs it: padding, unsupervised rows of the head, gradients of frozen weights, anything
computed twice, and the gradient in the input of the lowest layer, below which nothing trains. Norms, activations and
the optimiser are counted as nothing: they move memory and hardly multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a decoder with gated feed-forward layers."""

    layers: int
    width: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From the keys of a Llama configuration."""
        return cls(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["intermediate_size"],
            config["vocab_size"],
        )

    @property
    def maps(self) -> list[tuple[int, int]]:
        """(in, out) of the linear maps of a layer: q, k, v, o, gate, up, down."""
        narrow = self.width * self.key_heads // self.heads
        wide = (self.width, self.width)
        return [
            wide,
            (self.width, narrow),
            (self.width, narrow),
            wide,
            *((self.width, self.inner),) * 2,
            (self.inner, self.width),
        ]


def forward(shape: Shape, tokens: int, pairs: int, supervised: int) -> int:
    """Forward pass of the frozen network.

    Args:
        shape: of the network.
        tokens: computed.
        pairs: of a query and a key that it sees, summed over segments: L (L + 1) / 2 for L tokens.
        supervised: rows of the head.
    """
    linear = 2 * sum(inputs * outputs for inputs, outputs in shape.maps) * tokens
    attention = 4 * shape.width * pairs
    return shape.layers * (linear + attention) + 2 * shape.vocabulary * shape.width * supervised


def low_rank_step(shape: Shape, tokens: int, pairs: int, supervised: int, rank: int) -> int:
    """Forward and backward pass with low-rank pairs on all linear maps: what `forward` counts, and their gradients."""
    maps = shape.maps
    lowest = 2 * sum(inputs * outputs for inputs, outputs in maps[:3]) * tokens
    once = forward(shape, tokens, pairs, supervised)
    attention_backward = shape.layers * 4 * shape.width * pairs
    adapters = shape.layers * 6 * rank * sum(inputs + outputs for inputs, outputs in maps) * tokens
    return 2 * once - lowest + attention_backward + adapters


def causal_pairs(lengths: Sequence[int]) -> int:
    """Pairs of a query and a key in rows of these lengths, each seeing its own past and itself."""
    return sum(length * (length + 1) // 2 for length in lengths)
