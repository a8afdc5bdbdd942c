"""Reach: what the rows of a tree of segments see; a token that rows share is read by each of them.

Each segment's queries are its own tokens. Its keys are those of all segments before it and its own, one after the
other: S runs of T' tokens in all, where a shared token comes once for every segment that sees it.

    seen      x (T, ...)   -> x' (T', ...)     x'_j = x_r(j)
    gathered  g' (T', ...) -> g (T, ...)       g_t = sum of g'_j over r(j) = t, in float32, always in one order
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.segments import Segments


class Reach:
    """Of one batch, on one device.

    Attributes:
        pasts: of each segment, the number of tokens that it sees before its own.
        read: (T',) which of the T tokens each is; None: the same ones.
    """

    def __init__(self, packed: Segments, device: torch.device) -> None:
        self.pasts = [whole - own for whole, own in zip(packed.row_lengths, packed.lengths, strict=True)]
        self._tokens = packed.offsets[-1]
        self.read: Tensor | None = None
        if packed.parents is not None:
            rows = range(len(packed.parents))
            spans = [packed.offsets[place : place + 2] for row in rows for place in packed.path(row)]
            self.read = torch.cat([torch.arange(start, end) for start, end in spans]).to(device)

    def seen(self, x: Tensor) -> Tensor:
        """What the rows see: (T, ...) to (T', ...), with a gradient; the same tensor where every row stands alone."""
        found: Tensor = x if self.read is None else _Seen.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def gathered(self, x: Tensor) -> Tensor:
        """Gradients (T', ...) added up, (T, ...)."""
        if self.read is None:
            return x
        wide = torch.promote_types(x.dtype, torch.float32)
        found = x.new_zeros(self._tokens, *x.shape[1:], dtype=wide)
        if x.is_cuda:
            found.index_put_((self.read,), x.to(wide), accumulate=True)  # there `index_add_` has no order of its own
        else:
            found.index_add_(0, self.read, x.to(wide))
        return found.to(x.dtype)


def reach_of(packed: Segments, device: torch.device) -> Reach:
    """That of a batch, made once for all layers."""
    return packed.once(("reach", device), lambda: Reach(packed, device))


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: Reach) -> Tensor:
        ctx.reach = reach
        return x.index_select(0, reach.read)  # type: ignore[arg-type]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.reach.gathered(gradient), None
