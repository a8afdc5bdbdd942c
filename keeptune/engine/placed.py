"""Placed: a delta at its place, and how what it computes joins what the model computed there.

He et al. (2021, arXiv:2110.04366) write every adapter as `h <- compose(h, dh)` with three free choices: the place
(`places.py`), the function `dh = delta(x, h)` (`deltas.py`), and the composition (below). Nothing here needs torch
before something is computed, so methods can name places and compositions while a recipe is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from keeptune.engine.places import Place
    from keeptune.engine.selection import Selection

Composition = Callable[["Tensor", "Tensor", "Selection"], "Tensor"]


def add(h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
    """`h + dh`."""
    return h + dh


class Placed(NamedTuple):
    """One delta at one place, with its composition: what a method consists of."""

    place: Place
    delta: Any
    composition: Composition = add


def multiply(h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
    """`h * dh`, as (IA)^3 does with its vectors."""
    return h * dh


def replace(h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
    """`dh`: the delta saw `h` and answers in its stead."""
    return dh


@dataclass(frozen=True)
class Scale:
    """`h + factor * dh`."""

    factor: float

    def __call__(self, h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
        """Adds the scaled change."""
        return h + self.factor * dh


@dataclass(frozen=True)
class Gate:
    """`h + g * dh` with one gate per row and layer, set with `keeptune.engine.rows.gated`; 1 where none is set."""

    layer: int

    def __call__(self, h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
        """Adds the gated change; the gate of a token is that of its row."""
        if selection.gates is None:
            return h + dh
        gates = selection.gates[selection.row_of_token(), self.layer].view(*h.shape[:-1], 1)
        return h + gates.to(h.dtype) * dh

    def open_rows(self, selection: Selection) -> Selection | None:
        """The selection without the rows whose gate is shut; None when all are. Those that learn stay: all of them."""
        if selection.gates is None or selection.gates.requires_grad:
            return selection
        is_open = (selection.gates[:, self.layer] != 0).tolist()
        rows = [row for row in selection.rows if is_open[row]]
        if not rows or len(rows) == len(selection.rows):
            return selection if rows else None
        return selection.of_rows(rows)


def apply(placed: Placed, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
    """The new output of a place: `compose(h, delta(x, h))` on the selected tokens, `h` itself elsewhere."""
    if isinstance(placed.composition, Gate):
        through = placed.composition.open_rows(selection)
        if through is None:
            return h
        selection = through
    if selection.tokens is None:
        dh = placed.delta(x, h, selection).to(h.dtype)
        return placed.composition(h, dh, selection)
    flat = h.reshape(-1, h.shape[-1])
    chosen_x = x.reshape(len(flat), -1).index_select(0, selection.tokens)  # an embedding's x are ids, without a width
    chosen_h = flat.index_select(0, selection.tokens)
    dh = placed.delta(chosen_x, chosen_h, selection).to(h.dtype)
    return flat.index_copy(0, selection.tokens, placed.composition(chosen_h, dh, selection)).view_as(h)


def named_generator(seed: int, label: str) -> torch.Generator:
    """A generator of its own for each label, so that a place starts alike whatever else is adapted, on any device."""
    import torch

    digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
