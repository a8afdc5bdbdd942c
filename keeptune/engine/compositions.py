"""Compositions: how what a delta computes joins what the model computed at its place.

He et al. (2021, arXiv:2110.04366) write every adapter as `h <- compose(h, dh)` with three free choices: the place
(`places.py`), the function `dh = delta(x, h)` (`deltas.py`), and the composition (below).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.selection import Selection

Composition = Callable[["Tensor", "Tensor", "Selection"], "Tensor"]


def add(h: Tensor, dh: Tensor, selection: Selection) -> Tensor:
    """`h + dh`."""
    return h + dh


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
