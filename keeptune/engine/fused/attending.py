"""Rotary embedding and attention of a layer, as kernels of a processor train them.

    q, k turned (`rotation`)        output = softmax(c q k') v of each row over its past (`causal_rows`)

They are the kernels of those two files, and the bits are theirs.

Shapes: queries (T, H, K), keys and values (T, G, K).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from keeptune.engine.causal_rows import offsets_of
from keeptune.engine.kernel_contract import ProcessorKernels
from keeptune.engine.kernels import settle
from keeptune.engine.reach import Reach, reach_of
from keeptune.engine.segments import Segments


class Attending(NamedTuple):
    """How a layer attends.

    Attributes:
        kernels: that do it.
        reach: what the rows see.
        offsets: where the rows begin among the T tokens, and where what they see among the T'.
        cos: (T, 1, K / 2), of each pair's angle.
        sin: (T, 1, K / 2).
        scale: c.
    """

    kernels: ProcessorKernels
    reach: Reach
    offsets: tuple[Tensor, Tensor]
    cos: Tensor
    sin: Tensor
    scale: float

    def values(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output (T, H, K), and what the gradients need."""
        turned = [self.kernels.rotate(x, self.cos, self.sin) for x in (query, key)]
        kept = (*turned, value)
        output, log_sums = self.kernels.attention(turned[0], *self._seen(*kept[1:]), self.offsets, self.scale)
        return output, (*kept, log_sums)

    def gradients(self, kept: tuple[Tensor, ...], slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In queries, keys and values, given that in the output, (T, H, K)."""
        query, key, value, log_sums = kept
        seen = self._seen(key, value)
        d_query, *others = self.kernels.attention_back(query, *seen, slope, log_sums, self.offsets, self.scale)
        if self.reach.read is not None:
            settle()
        d_key, d_value = (self.reach.gathered(x) for x in others)
        d_query, d_key = (self.kernels.rotate(x, self.cos, self.sin, back=True) for x in (d_query, d_key))
        return d_query, d_key, d_value

    def _seen(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.reach.read is not None:
            settle()
        return self.reach.seen(key), self.reach.seen(value)


def attending(kernels: ProcessorKernels, packed: Segments, cos: Tensor, sin: Tensor, scale: float) -> Attending:
    """How the heads of a layer attend over these rows."""
    return Attending(kernels, reach_of(packed, cos.device), offsets_of(packed), cos, sin, scale)
