"""Readers: the tokens of a batch whose states somebody reads.

Behind the attention of the last layer no token sees another, and most tokens of a task's rows are read by nobody: those
of an instruction, of a request, of what several options share. There the output map of attention, the feed-forward
layer and the final norm run over the readers alone. States and gradients are those of the whole layer.

Shapes: T tokens, R readers, R' with the last one some times more. Products have few shapes then (`even.py`), and bits
are those of the whole layer: libraries add up a few rows in another order than many, and take another exponential for
what is left of a tensor behind its last whole vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from keeptune.engine.even import LEAST, even_size
from keeptune.engine.fused.serving import Served, served
from keeptune.engine.kernels import multiplying
from keeptune.engine.learning import learns
from keeptune.engine.segments import Segments, segments

VECTOR = 16
"""A multiple of the numbers that a processor takes at a time."""
MOST = 0.9
"""Of a batch, from which on nothing is gained by leaving the others out."""


@dataclass(frozen=True)
class Readers:
    """Of one pass.

    Attributes:
        places: (R',) which tokens they are.
        count: R.
        tokens: T.
        served: what serves the linear maps of these tokens.
    """

    places: Tensor
    count: int
    tokens: int
    served: Served

    def of(self, x: Tensor) -> Tensor:
        """(T, ...) to (R', ...), with a gradient."""
        found: Tensor = _Chosen.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def back(self, x: Tensor) -> Tensor:
        """(R', ...) to (T, ...): where nobody reads there are no numbers, so that who does is not misled."""
        none = x.new_full((self.tokens, *x.shape[1:]), nan)
        return none.index_copy(0, self.places[: self.count], x[: self.count])


def readers_of(model: PreTrainedModel, packed: Segments, stream: Tensor, reads: Tensor | None) -> Readers | None:
    """Those of a packed pass over `stream` (T, D), given where it is read; None where that is nearly everywhere."""
    if reads is None or not len(reads):
        return None
    size = max(LEAST, -(-len(reads) // VECTOR) * VECTOR)
    if not (learns() and multiplying(stream)):
        size = even_size(size, stream)
    if size > MOST * len(stream):
        return None
    # Who serves which token goes by rows, and the readers are rows of fewer tokens.
    inner = torch.searchsorted(reads, torch.tensor(packed.offsets)).tolist()
    with segments([*inner[:-1], size]):
        by = served(model, size)
    places = torch.cat([reads, reads[-1:].expand(size - len(reads))]).to(stream.device)
    return Readers(places, len(reads), len(stream), by)


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, readers: Readers) -> Tensor:
        ctx.readers = readers
        return x.index_select(0, readers.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        readers: Readers = ctx.readers
        found = gradient.new_zeros(readers.tokens, *gradient.shape[1:])
        # What comes behind the readers is read by nobody, and has no gradient.
        return found.index_copy_(0, readers.places[: readers.count], gradient[: readers.count]), None
