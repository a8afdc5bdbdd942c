"""Vectors inserted into the rows of a padded batch: which column everything goes to.

    [P; x; Q; y]        P before the first token, Q before another one, or behind all

Shapes: B rows, T tokens, K groups of vectors, W vectors of the row that has most.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Inserted(NamedTuple):
    """Columns of the widened batch, 0 to W + T - 1, each taken once in a row.

    Attributes:
        vectors: `[B, W]`, the row's own first; then columns of pads.
        tokens: `[B, T]`.
        real: `[B, W]`, which vectors the row has.
    """

    vectors: Tensor
    tokens: Tensor
    real: Tensor

    def put(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """`[B, W + T, ...]` of `[B, W, ...]` and `[B, T, ...]`, each in its column."""
        joined = torch.cat([vectors.to(tokens.dtype), tokens], dim=1)
        columns = torch.cat([self.vectors, self.tokens], dim=1)
        columns = columns if joined.ndim == 2 else columns[:, :, None].expand(-1, -1, joined.shape[2])
        return torch.empty_like(joined).scatter(1, columns, joined)


def inserted(cuts: Tensor, counts: Tensor, tokens: int, width: int) -> Inserted:
    """Every group before its token, the columns of vectors that a row has not behind everything.

    Args:
        cuts: `[B, K]`, ascending: the token that each group stands before, T for behind all.
        counts: `[B, K]` vectors of each group.
        tokens: T.
        width: W.
    """
    token, number = (torch.arange(size, device=cuts.device) for size in (tokens, width))
    before = counts[:, None] * (cuts[:, None] <= token[:, None])
    group = (number[:, None] >= counts.cumsum(1)[:, None]).sum(dim=2).clamp(max=counts.shape[1] - 1)
    real = number < counts.sum(dim=1, keepdim=True)
    columns = torch.where(real, cuts.gather(1, group) + number, tokens + number)
    return Inserted(columns, token + before.sum(dim=2), real)
