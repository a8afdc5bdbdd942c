"""The virtual tokens of each row: those of the prompts in its stack, one after the other.

A template may have some in other places: before each text of the row, and behind the last. In a row's block they lie in
this order, group by group. In a decoder's conversation those behind the last text stand before each answer.

Shapes: B rows, K groups, D width, W virtual tokens of the row that has most.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from keeptune.core.errors import PlanError
from keeptune.data.starts import LOST, Starts
from keeptune.engine.places import Book, Placed
from keeptune.engine.selection import Stack


class Surrounding(NamedTuple):
    """How many virtual tokens a row has, and where.

    Attributes:
        counts: of each group: before the first text, before each later one, and behind the last.
        tail: special tokens at the end of the last text that stay behind all of them.
    """

    counts: tuple[int, ...]
    tail: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts)

    @property
    def behind(self) -> int:
        """Those behind the last text."""
        return self.counts[-1]


NO_VIRTUAL = Surrounding((0, 0), 0)


class Group(NamedTuple):
    """Virtual tokens that stand together.

    Attributes:
        cut: the token of the row that they stand before.
        first: of them in the row's block.
        size: how many they are.
        answers: whether they stand before an answer, whose first token the last of them predicts.
    """

    cut: int
    first: int
    size: int
    answers: bool


def groups_among(one: Surrounding, starts: Starts) -> list[Group]:
    """The virtual tokens of a decoder's row, in order: those behind a request before each answer.

    Args:
        one: how many of them are where.
        starts: where in the row its texts and answers begin.

    Raises:
        PlanError: the row has not as many texts as its template, or an answer that cannot be found (E-ROWS-TEMPLATE).
    """
    between = cuts_between([one], [starts.texts])[0]
    firsts = [0, *itertools.accumulate(one.counts)]
    found = [
        Group(cut, first, count, False)
        for cut, first, count in zip((0, *between), firsts, one.counts[:-1], strict=False)
        if count
    ]
    if one.behind:
        if LOST in starts.answers:
            raise lost_answers()
        found += [Group(cut, firsts[-2], one.behind, True) for cut in starts.answers]
    return sorted(found, key=lambda group: group.cut)


def counts_of(around: Sequence[Surrounding]) -> list[tuple[int, ...]]:
    """The counts of rows, equally many for each: a row of fewer texts has none between those that it has not."""
    most = max(len(one.counts) for one in around)
    return [(*one.counts[:-1], *(0,) * (most - len(one.counts)), one.counts[-1]) for one in around]


def cuts_between(around: Sequence[Surrounding], starts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of each row, the tokens that the groups between its texts stand before, equally many for each.

    Args:
        around: of the rows.
        starts: where in each row its texts begin, but the first.

    Raises:
        PlanError: a row has not as many texts as its template (E-ROWS-TEMPLATE).
    """
    most = max(len(one.counts) for one in around) - 2
    found = []
    for one, own in zip(around, starts, strict=True):
        wanted = len(one.counts) - 2
        if wanted and len(own) != wanted:
            call = (
                "around a call of your own, `with keeptune.divided(texts=[[5], [8]]):` says at which token of each row "
                "the second text begins."
            )
            raise other_texts(wanted + 1, len(own) + 1, call=call)
        found.append((*own[:wanted], *(0,) * (most - wanted)))
    return found


def other_texts(wanted: int, found: int, *, call: str) -> PlanError:
    """The error for a row that has another number of texts than its template.

    Args:
        wanted: of the template.
        found: in the row.
        call: what says so to a plain call of the model.
    """
    return PlanError(
        f"the template has {wanted} texts, and a row of this batch has {found}.",
        code="E-ROWS-TEMPLATE",
        fix=f"In a recipe name as many columns in the data's `prompt` as the template has texts; {call}",
    )


def lost_answers() -> PlanError:
    """The error for a conversation whose earlier answers the chat template rewrites."""
    return PlanError(
        "the template has soft tokens before each answer, and one of this conversation cannot be found.",
        code="E-ROWS-TEMPLATE",
        why="The chat template writes an earlier answer in another form than when it was the last.",
        fix="Use `template: plain`, or a template with nothing behind its last {text}.",
    )


@dataclass(frozen=True)
class PromptRows:
    """What the prompts at one input embedding say about rows.

    Attributes:
        book: who serves whom.
        entries: the prompts of each adapter.
        embedding: of the model.
    """

    book: Book
    entries: Mapping[str, list[Placed]]
    embedding: nn.Module

    def stacks(self, count: int) -> list[Stack]:
        """The prompts among the adapters that serve each of `count` rows."""
        stacks = self.book.serving.stack_of_rows(count)
        return [tuple(name for name in stack if name in self.entries) for stack in stacks]

    def virtual(self, stack: Stack, dtype: torch.dtype) -> Tensor:
        """`[p, D]`: the virtual tokens of one stack."""
        deltas, groups = self._deltas(stack), self._groups(stack)
        parts = [torch.split(delta.virtual().to(dtype), list(own)) for delta, own in zip(deltas, groups, strict=True)]
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        nothing = weight.new_zeros(0, weight.shape[1]).to(dtype)
        return torch.cat([*(part for group in zip(*parts, strict=True) for part in group), nothing])

    def length(self, stack: Stack) -> int:
        """Their number."""
        return sum(delta.room for delta in self._deltas(stack))

    def around(self, stack: Stack) -> Surrounding:
        """How many stand where, and what of the tokenizer's own stays behind them."""
        groups, deltas = self._groups(stack), self._deltas(stack)
        if not groups:
            return NO_VIRTUAL
        counts = tuple(map(sum, zip(*groups, strict=True)))
        tail = max(delta.frame[1] if own[-1] else 0 for delta, own in zip(deltas, groups, strict=True))
        return Surrounding(counts, tail)

    def block(self, stacks: Sequence[Stack], width: int) -> Tensor:
        """`[B, W, D]`: the virtual tokens of each row, flush left."""
        kinds = list(dict.fromkeys(stacks))
        blocks = [self.virtual(stack, self.embedding.weight.dtype) for stack in kinds]  # type: ignore[arg-type]
        flush = torch.stack([nn.functional.pad(block, (0, 0, 0, width - len(block))) for block in blocks])
        return flush[torch.tensor([kinds.index(stack) for stack in stacks], device=flush.device)]

    def grouped(self, stacks: Sequence[Stack], groups: Sequence[Sequence[Group]], width: int) -> Tensor:
        """`[B, W, D]`: the virtual tokens of each row as its groups have them, flush left."""
        kinds = list(dict.fromkeys(stacks))
        dtype: torch.dtype = self.embedding.weight.dtype  # type: ignore[assignment]
        blocks = [self.virtual(stack, dtype) for stack in kinds]
        bases = dict(zip(kinds, itertools.accumulate(map(len, blocks), initial=0), strict=False))
        index = [
            [bases[stack] + group.first + number for group in own for number in range(group.size)]
            for stack, own in zip(stacks, groups, strict=True)
        ]
        vectors = torch.cat(blocks)
        rows = torch.tensor([[*own, *[0] * (width - len(own))] for own in index], device=vectors.device)
        return vectors[rows]

    def _deltas(self, stack: Stack) -> list[Any]:
        return [placed.delta for name in stack for placed in self.entries[name]]

    def _groups(self, stack: Stack) -> list[tuple[int, ...]]:
        """The groups of each delta; what has one text stands around all texts of a template that has several."""
        found = [groups_of(delta) for delta in self._deltas(stack)]
        most = max(map(len, found), default=2)
        if any(2 < len(own) < most for own in found):
            raise PlanError(
                "a row is served by two templates with different numbers of texts.",
                code="E-ROWS-TEMPLATE",
                fix="Put the soft tokens of both into one template.",
            )
        return [own if len(own) == most else (own[0], *(0,) * (most - 2), own[1]) for own in found]


def groups_of(delta: Any) -> tuple[int, ...]:
    """Virtual tokens of a delta before each text, and behind the last: without a template, all before the first."""
    ends = getattr(delta, "ends", (delta.room,))
    return tuple(stop - start for start, stop in itertools.pairwise((0, *ends, delta.room)))
