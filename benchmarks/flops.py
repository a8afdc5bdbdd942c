"""The useful arithmetic of a step: what no implementation can leave out.

    linear maps     2 P T forward, 2 P T for the gradient in their input        P parameters, T tokens
    low-rank pairs  2 r (in + out) T forward, twice that backward
    attention       2 D (L + 1) L for a segment of L tokens, causal half of q k and of a v; twice that backward
    head            2 V D N forward, 2 V D N for the gradient in the hidden states, on the N supervised positions
    the last layer  keys and values as above, everything else on the N positions

Left out, because nothing needs it: padding, what comes behind the last position of a row that is read, what nobody
reads of the head and the last layer, gradients of frozen weights, anything computed twice, and the gradient in the
input of the lowest layer, below which nothing trains. Norms, activations and the optimiser are counted as nothing: they
move memory and hardly multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
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


@dataclass(frozen=True)
class Work:
    """What a batch asks for; those of several batches add up.

    Attributes:
        tokens: T, each once, however many rows begin with it, up to the last that predicts a learned one.
        pairs: of a query and a key that it sees: L (L + 1) / 2 for a row of L tokens.
        read: N, the positions that predict a learned token.
        read_pairs: those pairs whose query is read.
    """

    tokens: int
    pairs: int
    read: int
    read_pairs: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int | bool]], shared: int = 0) -> Work:
        """Of rows that say of each token whether it is learned; the first `shared` tokens of all are the same."""
        places = [[place for place, learned in enumerate(row) if learned and place] for row in rows]
        own = [max(found, default=shared + 1) - shared for found in places]
        read = [place for found in places for place in found]
        pairs = causal_pairs([shared, *own]) + shared * sum(own)
        return cls(shared + sum(own), pairs, len(read), sum(read))  # token t is predicted by one that sees t tokens

    def __add__(self, other: Work) -> Work:
        sums = (mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        return Work(*sums)


def forward(shape: Shape, work: Work) -> int:
    """Forward pass of the frozen network."""
    return _linear(shape, work) + _attention(shape, work) + 2 * shape.vocabulary * shape.width * work.read


def low_rank_step(shape: Shape, work: Work, rank: int) -> int:
    """Forward and backward pass with low-rank pairs on all linear maps: what `forward` counts, and their gradients."""
    maps = shape.maps
    lowest = 2 * sum(inputs * outputs for inputs, outputs in maps[:3]) * work.tokens
    adapters = sum(
        6 * rank * sum(inputs + outputs for inputs, outputs in some) * count for some, count in _runs(shape, work)
    )
    return 2 * forward(shape, work) - lowest + _attention(shape, work) + adapters


def _linear(shape: Shape, work: Work) -> int:
    return sum(2 * sum(inputs * outputs for inputs, outputs in some) * count for some, count in _runs(shape, work))


def _runs(shape: Shape, work: Work) -> list[tuple[list[tuple[int, int]], int]]:
    """Linear maps, and over how many tokens each of them runs."""
    query, key, value, *rest = shape.maps
    return [
        (shape.maps * (shape.layers - 1), work.tokens),
        ([key, value], work.tokens),
        ([query, *rest], work.read),
    ]


def _attention(shape: Shape, work: Work) -> int:
    return 4 * shape.width * ((shape.layers - 1) * work.pairs + work.read_pairs)


def causal_pairs(lengths: Sequence[int]) -> int:
    """Pairs of a query and a key in rows of these lengths, each seeing its own past and itself."""
    return sum(length * (length + 1) // 2 for length in lengths)
