"""Rotary embedding and attention of a layer, as kernels of a processor train them.

    q, k turned (`rotation`)        output = softmax(c q k') v of each row over its past (`causal_rows`)

They are the kernels of those two files, and the bits are theirs.

Shapes: queries (T, H, K), keys and values (T, G, K).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from keeptune.engine.causal_rows import Spread, spread_of
from keeptune.engine.kernel_contract import ProcessorKernels
from keeptune.engine.kernels import settle
from keeptune.engine.segments import Segments


class Attending(NamedTuple):
    """How a layer attends.

    Attributes:
        kernels: that do it.
        spread: the rows.
        tree: rows share what they see.
        cos: (T, 1, K / 2), of each pair's angle.
        sin: (T, 1, K / 2).
        scale: c.
    """

    kernels: ProcessorKernels
    spread: Spread
    tree: bool
    cos: Tensor
    sin: Tensor
    scale: float

    def values(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output (T, H, K), and what the gradients need."""
        turned = [self.kernels.rotate(x, self.cos, self.sin) for x in (query, key)]
        kept = (*turned, value)
        output, log_sums = self.kernels.attention(turned[0], *self._seen(*kept[1:]), self.spread.offsets, self.scale)
        return output, (*kept, log_sums)

    def gradients(self, kept: tuple[Tensor, ...], slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In queries, keys and values, given that in the output, (T, H, K)."""
        query, key, value, log_sums = kept
        seen = self._seen(key, value)
        slopes = self.kernels.attention_back(query, *seen, slope, log_sums, self.spread.offsets, self.scale)
        if self.tree:
            settle()
        gathered = (slopes[0], self.spread.gathered(slopes[1]))
        d_query, d_key = (self.kernels.rotate(x, self.cos, self.sin, back=True) for x in gathered)
        return d_query, d_key, self.spread.gathered(slopes[2])

    def _seen(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.tree:
            settle()
        return self.spread.seen(key), self.spread.seen(value)


def attending(
    kernels: ProcessorKernels, packed: Segments, heads: int, cos: Tensor, sin: Tensor, scale: float
) -> Attending:
    """How these rows attend in a layer of so many heads."""
    return Attending(kernels, spread_of(packed, heads), packed.parents is not None, cos, sin, scale)
