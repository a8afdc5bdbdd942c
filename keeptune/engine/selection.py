"""Which adapters serve which rows of a batch, and the tokens that this selects.

A padded batch `[B, T]` and a packed one `[1, T]` are one thing here: rows that lie one after another in the flattened
tokens, `offsets[i]` to `offsets[i + 1]`. A packed batch's rows are its segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from keeptune.core.errors import PlanError

Stack = tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The tokens that one adapter serves at one height of the stack.

    Attributes:
        adapter: its name.
        tokens: indices into the flattened tokens; None = all of them, without indexing.
        rows: the rows it serves, in order.
        offsets: bounds of all rows in the flattened tokens.
        gates: `[rows, layers]`, or None.
        device: of the tokens.
        banks: what `banks.py` keeps as long as this plan lasts; one for all selections of a plan.
    """

    adapter: str
    tokens: Tensor | None
    rows: Sequence[int]
    offsets: Sequence[int]
    gates: Tensor | None
    device: torch.device
    banks: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    def row_of_token(self) -> Tensor:
        """The row of each selected token."""
        lengths = torch.tensor([self.offsets[row + 1] - self.offsets[row] for row in self.rows], device=self.device)
        return torch.repeat_interleave(torch.tensor(list(self.rows), device=self.device), lengths)

    def of_rows(self, rows: Sequence[int]) -> Selection:
        """The same for some of its rows."""
        return replace(self, tokens=tokens_of(rows, self.offsets, self.device), rows=rows)


class Serving:
    """A stack of adapters for each row of a batch; or one stack for every row, however many there are.

    Args:
        stacks: one per row, first applied first; an empty stack is the base.
        every: the stack of every row, instead of `stacks`.
        gates: `[rows, layers]` by adapter name.
        repeat: how often each row comes, one after another. A batch may also have each of them once: `generate` runs an
            encoder before it repeats its rows for the decoder's beams.
    """

    def __init__(
        self,
        stacks: Sequence[Stack] | None = None,
        *,
        every: Stack = (),
        gates: dict[str, Tensor] | None = None,
        repeat: int = 1,
    ) -> None:
        self.stacks = None if stacks is None else tuple(stacks)
        self.gates, self.repeat = gates or {}, repeat
        kinds = {every} if self.stacks is None else set(self.stacks)
        self.shared: Stack | None = next(iter(kinds)) if len(kinds) == 1 else None
        self.names = {name for stack in kinds for name in stack}
        self._last: tuple[object, list[Selection]] = (None, [])

    def stack_of_rows(self, count: int) -> tuple[Stack, ...]:
        """The stack of each of `count` rows.

        Raises:
            PlanError: the batch has another number of rows (E-ROWS-COUNT).
        """
        if self.stacks is None:
            return (self.shared or (),) * count
        if len(self.stacks) == count * self.repeat:
            return self.stacks[:: self.repeat]
        if len(self.stacks) != count:
            raise PlanError(
                f"adapters were named for {len(self.stacks)} rows, but the batch has {count}.",
                code="E-ROWS-COUNT",
                fix="Name one adapter (or None, the base) per row; with beam search, pass `repeat=num_beams`.",
            )
        return self.stacks

    def with_gates(self, gates: Mapping[str, Tensor]) -> Serving:
        """The same with these gates too."""
        everything = {**self.gates, **gates}
        return Serving(self.stacks, every=self.shared or (), gates=everything, repeat=self.repeat)

    def of_all(self) -> Serving:
        """For what the rows of a batch share: the stack that all of them have.

        Raises:
            PlanError: they have different ones (E-ROWS-FAMILY).
        """
        if self.stacks is None:
            return self
        if self.shared is None:
            raise PlanError(
                "rows with different adapters share what this module computes.",
                code="E-ROWS-FAMILY",
                why="In DeBERTa the maps of queries and keys also project the distances of tokens, once per batch.",
                fix="Adapt other maps (targets: [v, o, up, down]), or give every row of a batch the same adapters.",
            )
        return Serving(every=self.shared, gates=self.gates)

    def plan(self, offsets: Sequence[int], device: torch.device) -> list[Selection]:
        """What to apply, in order: height by height, each adapter once with all the rows that have it there."""
        key = (tuple(offsets), device)
        if self._last[0] != key:
            self._last = (key, self._plan(offsets, device))
        return self._last[1]

    def _plan(self, offsets: Sequence[int], device: torch.device) -> list[Selection]:
        stacks = self.stack_of_rows(len(offsets) - 1)
        if self.shared is not None:
            rows = range(len(stacks))
            return [Selection(name, None, rows, offsets, self._gates(name, rows), device) for name in self.shared]
        plan: list[Selection] = []
        banks: dict[int, Any] = {}
        for height in range(max(len(stack) for stack in stacks)):
            served: dict[str, list[int]] = {}
            for row, stack in enumerate(stacks):
                if height < len(stack):
                    served.setdefault(stack[height], []).append(row)
            for name, chosen in served.items():
                with torch.inference_mode(False):  # a plan made while generating may serve a training step later
                    tokens = tokens_of(chosen, offsets, device)
                gates = self._gates(name, range(len(stacks)))
                plan.append(Selection(name, tokens, chosen, offsets, gates, device, banks))
        return plan

    def _gates(self, name: str, rows: range) -> Tensor | None:
        """Those of the rows of this batch, which may come once or `repeat` times."""
        gates = self.gates.get(name)
        return gates if gates is None or len(gates) == len(rows) else gates[:: self.repeat]


def tokens_of(rows: Sequence[int], offsets: Sequence[int], device: torch.device) -> Tensor:
    """Indices of the rows' tokens into the flattened tokens."""
    return torch.cat([torch.arange(offsets[row], offsets[row + 1]) for row in rows]).to(device)
