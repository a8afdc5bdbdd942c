"""A decoder layer as two functions, for training by kernels of a processor.

    attending half      x = norm h,  q, k, v = maps of x,  a = attention(turned q, turned k, v)
    feeding half        h' = h + o(a),  h + down(silu(gate) up) of the norm of h'

They are the groups of `linear_group` and the kernels of `attending`, whose values and gradients they have. What they
save is Python: the kernels of a half wait for each other and run together (`engine/native/calls`), forward and back,
and half a dozen nodes of autograd's graph with their views become one. Between the halves the last layer's readers are
chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keeptune.engine.fused.attending import Attending
from keeptune.engine.fused.linear_group import Group
from keeptune.engine.fused.prologue import RMSNorm
from keeptune.engine.kernel_contract import ProcessorKernels


class AttendingHalf(NamedTuple):
    """Up to the attention of a layer.

    Attributes:
        own: the kernels.
        maps: of queries, keys and values, behind the norm.
        norms: of each head's queries and keys, in families that have them.
        attends: the heads.
        width: of a head, K.
    """

    own: ProcessorKernels
    maps: Group
    norms: tuple[RMSNorm, RMSNorm] | None
    attends: Attending
    width: int

    def __call__(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads give (T, H K), and the stream (T, D), which goes on from here."""
        found: tuple[Tensor, Tensor] = _Attending.apply(self, stream, *self.maps.factors)  # type: ignore[no-untyped-call]
        return found


class FeedingHalf(NamedTuple):
    """Behind the attention of a layer.

    Attributes:
        own: the kernels.
        output: the map of what the heads give.
        opening: gate and up, behind the norm.
        closing: down, behind SwiGLU.
    """

    own: ProcessorKernels
    output: Group
    opening: Group
    closing: Group

    def __call__(self, heads: Tensor, stream: Tensor) -> Tensor:
        """The stream (T, D) behind the layer, from what the heads give (T, H K) and the stream before."""
        factors = [factor for group in self[1:] for factor in group.factors]
        found: Tensor = _Feeding.apply(self, heads, stream, *factors)  # type: ignore[no-untyped-call]
        return found


class _Attending(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: AttendingHalf, stream: Tensor, *factors: Tensor) -> tuple[Tensor, Tensor]:
        with half.own.together():
            flat, kept = half.maps.values(half.own, [stream], factors, None)
            states = [x.view(x.shape[0], -1, half.width) for x in flat]
            given = states[:2] if half.norms else []
            for place, norm in enumerate(half.norms or ()):
                states[place] = norm.value(states[place])
            output, attended = half.attends.values(*states)
        ctx.half = half
        ctx.save_for_backward(stream, *given, *attended, *kept)
        return output.view(stream.shape[0], -1), stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_heads: Tensor, d_stream: Tensor) -> tuple[Tensor | None, ...]:
        half: AttendingHalf = ctx.half
        stream, *rest = ctx.saved_tensors
        given, rest = (rest[:2], rest[2:]) if half.norms else ([], rest)
        d_heads, d_stream = d_heads.contiguous(), d_stream.contiguous()
        with half.own.together():
            slopes = list(half.attends.gradients(tuple(rest[:4]), d_heads.view(d_heads.shape[0], -1, half.width)))
            for place, norm in enumerate(half.norms or ()):
                (slopes[place],) = norm.back(slopes[place], given[place], again=False).gradients
            (d_input,), d_factors = half.maps.gradients(
                half.own,
                [stream],
                rest[4:],
                [slope.view(slope.shape[0], -1) for slope in slopes],
                onto=d_stream,
                through=ctx.needs_input_grad[1],
                learns=any(ctx.needs_input_grad[2:]),
            )
        return None, d_input, *d_factors


class _Feeding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: FeedingHalf, heads: Tensor, stream: Tensor, *factors: Tensor) -> Tensor:
        own, (o, opening, closing) = half.own, half[1:]
        of_o, of_opening, of_closing = _parts(half[1:], factors, _factors_of)
        with own.together():
            (middle,), kept_o = o.values(own, [heads], of_o, stream)
            opened, kept_opening = opening.values(own, [middle], of_opening, None)
            (output,), kept_closing = closing.values(own, opened, of_closing, middle)
        ctx.half = half
        ctx.save_for_backward(heads, middle, *opened, *kept_o, *kept_opening, *kept_closing)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        half: FeedingHalf = ctx.half
        own, (o, opening, closing) = half.own, half[1:]
        heads, middle, gate, up, *rest = ctx.saved_tensors
        kept_o, kept_opening, kept_closing = _parts(half[1:], rest, _kept_of)
        learns = [any(each) for each in _parts(half[1:], ctx.needs_input_grad[3:], _factors_of)]
        below = any(ctx.needs_input_grad[1:3])
        slope = slope.contiguous()
        d_heads: Tensor | None = None
        d_middle: Tensor | None = None
        of_o: list[Tensor | None] = [None] * _factors_of(o)
        of_opening: list[Tensor | None] = [None] * _factors_of(opening)
        with own.together():
            d_opened, of_closing = closing.gradients(
                own, [gate, up], kept_closing, [slope], through=below or any(learns[:2]), learns=learns[2]
            )
            if below or any(learns[:2]):
                (d_middle,), of_opening = opening.gradients(
                    own,
                    [middle],
                    kept_opening,
                    [d for d in d_opened if d is not None],
                    onto=slope,
                    through=below or learns[0],
                    learns=learns[1],
                )
            if d_middle is not None:
                (d_heads,), of_o = o.gradients(
                    own, [heads], kept_o, [d_middle], through=ctx.needs_input_grad[1], learns=learns[0]
                )
        return None, d_heads, d_middle, *of_o, *of_opening, *of_closing


def _factors_of(group: Group) -> int:
    return 2 * len(group.updates)


def _kept_of(group: Group) -> int:
    """A, u, and each B."""
    return 2 + len(group.updates)


def _parts(groups: Sequence[Group], of: Sequence[Any], size: Callable[[Group], int]) -> list[Sequence[Any]]:
    """What belongs to each group of all that lies one behind the other."""
    found, start = [], 0
    for group in groups:
        found.append(of[start : start + size(group)])
        start += size(group)
    return found
