"""Banks: low-rank updates of many adapters in one batch, for as many products as one adapter needs.

Adapter by adapter, a mixed batch gathers its rows, multiplies and scatters, at every linear map; where every row brings
a single token (a step of writing), that costs as much as the model itself. A bank holds the factors of each row, one
row's beside another's:

    y_b <- y_b + s_b B_b A_b x_b        A [n, r, in],  B [n, r, out],  s [n, r],  n different stacks of adapters

for all rows at once: by a kernel on a processor (`native/low_rank.c`), else in two batched products. Ranks are filled
up with zeros to the largest; a stack of several adapters is one update of the sum of their ranks, for they all read x.
Where rows bring more tokens, adapters go one after another as before, but each adds to one copy of y.

Nothing here is differentiated. A bank lasts as long as who serves which row does, and is made again when a factor was
written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from keeptune.engine.compositions import Scale, add
from keeptune.engine.kernel_contract import ProcessorKernels, of_processor
from keeptune.engine.kernels import serving

if TYPE_CHECKING:
    from keeptune.engine.compositions import Composition
    from keeptune.engine.deltas import Delta, Factors
    from keeptune.engine.selection import Selection

Updates = Sequence[tuple["Selection", Sequence["Factors"]]]
# (place, delta, composition) by adapter.
Entries = Mapping[str, Sequence[tuple[Any, "Delta", "Composition"]]]


def update_of(delta: Delta, composition: Composition) -> Factors | None:
    """What a delta adds, where that is nothing but a low-rank update of its input."""
    factors = delta.factors()
    if factors is not None and isinstance(composition, Scale):
        return factors._replace(scale=factors.scale * composition.factor)
    return factors if composition is add else None


def added(plan: Sequence[Selection], entries: Entries, x: Tensor, h: Tensor) -> Tensor | None:
    """`h` with the updates of all adapters of a mixed batch; None where others serve it or gradients are taken.

    Args:
        plan: what to apply, each to its own tokens.
        entries: the deltas at this place, by adapter.
        x: input of the linear map, (..., in).
        h: its output, (..., out); left as it is.
    """
    if torch.is_grad_enabled():
        return None
    flat, given, banks, place = h.reshape(-1, h.shape[-1]), x.reshape(-1, x.shape[-1]), plan[0].banks, id(entries)
    bank: Bank | None = banks.get(place)
    if bank is not None and not bank.stale:
        return bank.added(given, flat).view_as(h)
    updates = _updates(plan, entries)
    if updates is None:
        return None
    if list(plan[0].offsets) == list(range(len(plan[0].offsets))):  # one token each
        banks[place] = bank = Bank.of(updates, given)
        return bank.added(given, flat).view_as(h)
    return _in_turn(updates, given, flat).view_as(h)


def _updates(plan: Sequence[Selection], entries: Entries) -> Updates | None:
    """Those of each selection; None where one of them is no low-rank update, or drops a part of its input."""
    found = []
    for selection in plan:
        own = [update_of(delta, composition) for _, delta, composition in entries.get(selection.adapter, ())]
        if any(factors is None or factors.dropout for factors in own):
            return None
        found.append((selection, [factors for factors in own if factors is not None]))
    return found if any(own for _, own in found) else None


def _in_turn(updates: Updates, x: Tensor, h: Tensor) -> Tensor:
    """(T, out): adapter by adapter, on one copy of h."""
    h = h.clone()
    for selection, own in updates:
        if not own:
            continue
        assert selection.tokens is not None, "in a mixed batch every adapter has its tokens"
        chosen = x.index_select(0, selection.tokens)
        for A, B, scale, _ in own:
            inner = functional.linear(chosen, A.to(x.dtype)) * scale
            h.index_add_(0, selection.tokens, functional.linear(inner, B.to(x.dtype)).to(h.dtype))
    return h


@dataclass(frozen=True)
class Bank:
    """The factors of each row of a batch at one place.

    Attributes:
        A: (n, r, in), of each stack of adapters.
        B: (n, r, out).
        scale: (n, r), float32.
        sets: (N,) the stack of each row; -1: the base.
        factors: those that it was made of.
        written: how often they had been written to.
        kernels: of a processor, where they take it.
    """

    A: Tensor
    B: Tensor
    scale: Tensor
    sets: Tensor
    factors: Sequence[Tensor]
    written: int
    kernels: ProcessorKernels | None

    @classmethod
    def of(cls, updates: Updates, x: Tensor) -> Bank:
        """For rows of one token each, (N, in)."""
        rows: list[list[Factors]] = [[] for _ in range(len(x))]
        for selection, factors in updates:
            for row in selection.rows:
                rows[row] += factors
        stacks = {tuple(id(one.A) for one in own): own for own in rows if own}
        number = {key: place for place, key in enumerate(stacks)}
        rank = max(sum(len(one.A) for one in own) for own in stacks.values())
        outputs = len(next(iter(stacks.values()))[0].B)
        A, B = x.new_zeros(len(stacks), rank, x.shape[1]), x.new_zeros(len(stacks), rank, outputs)
        scale = x.new_zeros(len(stacks), rank, dtype=torch.float32)
        for place, own in enumerate(stacks.values()):
            start = 0
            for one in own:
                end = start + len(one.A)
                A[place, start:end], B[place, start:end], scale[place, start:end] = one.A, one.B.T, one.scale
                start = end
        sets = [number.get(tuple(id(one.A) for one in own), -1) for own in rows]
        seen = {id(tensor): tensor for own in stacks.values() for one in own for tensor in (one.A, one.B)}
        read = [tensor for tensor in seen.values() if not tensor.is_inference()]  # those count nothing
        kernels = of_processor(serving(A, B))
        kernels = kernels if kernels is not None and kernels.updates(rank) else None
        return cls(A, B, scale, torch.tensor(sets, device=x.device), read, _writings(read), kernels)

    @property
    def stale(self) -> bool:
        """Whether a factor has other numbers now."""
        return _writings(self.factors) != self.written

    def added(self, x: Tensor, h: Tensor) -> Tensor:
        """(N, out): each row's h with its own update of its x."""
        if self.kernels is not None and x.is_contiguous() and h.is_contiguous():
            return self.kernels.low_rank(x, h, self.A, self.B, self.scale, self.sets)
        A, B, scale = self._by_row
        inner = torch.bmm(x[:, None], A) * scale
        return h + torch.bmm(inner, B)[:, 0]

    @cached_property
    def _by_row(self) -> tuple[Tensor, Tensor, Tensor]:
        """A turned (N, in, r), B (N, r, out) and s (N, 1, r); zeros for a row of the base."""
        own = (self.sets >= 0)[:, None, None].to(self.A.dtype)
        scale = self.scale[self.sets][:, None].to(self.A.dtype) * own
        return self.A[self.sets].transpose(1, 2).contiguous() * own, self.B[self.sets] * own, scale


def _writings(tensors: Sequence[Tensor]) -> int:
    """How often they were written to, all together: it only grows."""
    return sum([tensor._version for tensor in tensors])
