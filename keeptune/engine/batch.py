"""PackedBatch: rows one after the other without padding, the only form of a batch inside keeptune."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.data.starts import Starts

IGNORED = -100
Adapters = Sequence["tuple[str, ...] | None"]
"""The adapters that serve each row; None is the base."""


@dataclass(frozen=True)
class PackedBatch:
    """S rows of T tokens in all.

    Attributes:
        tokens: (T,) token ids.
        positions: (T,) position of each token in its own row.
        offsets: S + 1 numbers; row s owns the tokens offsets[s] to offsets[s + 1].
        targets: (T,) the token to be predicted at each position; -100 where nothing is learned. Already shifted, and
            never across rows.
        weights: (T,) weight of each position's loss, or None.
        adapters: the adapters that serve each row (None is the base), or None for the model's active ones.
        sources: the data source of each row.
        ids: the example of each row.
        parents: for each row the earlier one whose tokens come before its own, or -1 (`shared_rows.py`); its positions
            go on from there. None: every row stands alone.
        answers: what each row's answer says, or None: what a head learns.
        starts: of each row, where in it its texts and answers begin; None: nobody says.
        pairs: (row of the better answer, row of the worse) of those that were given with two endings.
        reads: (R,) the only positions whose states anybody reads, ascending, on the processor wherever the batch is;
            None: all.
    """

    tokens: Tensor
    positions: Tensor
    offsets: list[int]
    targets: Tensor
    weights: Tensor | None
    adapters: list[tuple[str, ...] | None] | None
    sources: list[str]
    ids: list[str]
    parents: list[int] | None = None
    answers: list[str | None] | None = None
    starts: list[Starts] | None = None
    pairs: Sequence[tuple[int, int]] = ()
    reads: Tensor | None = None
    _known: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def known(self, what: str, find: Callable[[], Tensor]) -> Tensor:
        """What depends on this batch alone, found once.

        Found on a processor before the batch goes to a GPU, it goes along. On the GPU, to ask how many positions there
        are is to wait for all that it has still to do.
        """
        if what not in self._known:
            self._known[what] = find()
        return self._known[what]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [end - start for start, end in itertools.pairwise(self.offsets)]

    @property
    def learned(self) -> int:
        """Number of positions that have a target."""
        return int((self.targets != IGNORED).sum())

    def read_at(self, reads: Tensor | None) -> PackedBatch:
        """The same batch for who reads the states at these positions and at no others."""
        reads = None if reads is None else reads.cpu()
        assert reads is None or bool((reads.diff() > 0).all()), "positions ascend, each once"
        found = replace(self, reads=reads)
        found._known.update(self._known)
        return found

    def until_read(self) -> PackedBatch:
        """The same batch, each row ended behind the last of its positions that is read.

        In a decoder nothing that is read sees what comes behind it; the last token of a row of training, which predicts
        nothing, is always there. What other rows continue stays, and of a row in which nobody reads, one token.
        """
        if self.reads is None:
            return self
        before = torch.searchsorted(self.reads, torch.tensor(self.offsets)).tolist()
        reads, continued, spans = self.reads.tolist(), set(self.parents or ()), []
        for row, ((first, last), (start, end)) in enumerate(
            zip(itertools.pairwise(before), itertools.pairwise(self.offsets), strict=True)
        ):
            ended = end if row in continued else reads[last - 1] + 1 if last > first else start + 1
            spans.append(torch.arange(start, ended))
        index = torch.cat(spans)
        if len(index) == len(self.tokens):
            return self
        at = index.to(self.tokens.device)
        return replace(
            self,
            tokens=self.tokens[at],
            positions=self.positions[at],
            offsets=_offsets([len(span) for span in spans]),
            targets=self.targets[at],
            weights=None if self.weights is None else self.weights[at],
            reads=torch.searchsorted(index, self.reads),
        )

    def segment_of(self) -> Tensor:
        """(T,) the row of each token."""
        lengths = torch.tensor(self.lengths, device=self.tokens.device)
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    def select(self, rows: Sequence[int]) -> tuple[PackedBatch, Tensor]:
        """The batch of `rows` alone, and the indices (T',) of its tokens in this batch.

        What comes before a chosen row comes along. Nothing is said about where it is read.
        """
        rows = self._with_ancestors(rows)
        spans = [torch.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        index = torch.cat(spans).to(self.tokens.device)
        part = PackedBatch(
            tokens=self.tokens[index],
            positions=self.positions[index],
            offsets=_offsets([len(span) for span in spans]),
            targets=self.targets[index],
            weights=None if self.weights is None else self.weights[index],
            adapters=None if self.adapters is None else [self.adapters[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            parents=None if self.parents is None else _renumbered([self.parents[row] for row in rows], rows),
            answers=None if self.answers is None else [self.answers[row] for row in rows],
            starts=None if self.starts is None else [self.starts[row] for row in rows],
            pairs=_renumbered_pairs(self.pairs, rows),
        )
        return part, index

    def _with_ancestors(self, rows: Sequence[int]) -> Sequence[int]:
        if self.parents is None:
            return rows
        found = set(rows)
        for row in sorted(found, reverse=True):
            while (row := self.parents[row]) >= 0:
                found.add(row)
        return sorted(found)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {name: getattr(self, name) for name in ("tokens", "positions", "targets", "weights")}
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in moved.items()}
        found = replace(self, **moved)
        found._known.update({what: tensor.to(device) for what, tensor in self._known.items()})
        return found


def pack(rows: Sequence[Encoded], *, adapters: Adapters | None = None) -> PackedBatch:
    """Lays `rows` one after the other.

    targets[t] = tokens[t + 1] where t + 1 is a learned token of the same row, else -100.

    Args:
        rows: encoded examples, each with at least one token.
        adapters: the adapters that serve each row.
    """
    assert rows, "a batch has at least one row"
    assert all(row.tokens for row in rows), "a row has at least one token"
    assert adapters is None or len(adapters) == len(rows), "one entry of adapters for each row"
    rows, pairs, adapters = whole(rows, adapters)
    targets = [
        token if learned else IGNORED
        for row in rows
        for token, learned in zip((*row.tokens[1:], IGNORED), (*row.learned[1:], False), strict=True)
    ]
    return PackedBatch(
        tokens=torch.tensor([token for row in rows for token in row.tokens]),
        positions=torch.cat([torch.arange(len(row.tokens)) for row in rows]),
        offsets=_offsets([len(row.tokens) for row in rows]),
        targets=torch.tensor(targets),
        weights=None,
        adapters=None if adapters is None else list(adapters),
        sources=[row.source for row in rows],
        ids=[row.id for row in rows],
        answers=[row.answer for row in rows],
        starts=[row.starts for row in rows],
        pairs=pairs,
    )


def whole(
    rows: Sequence[Encoded], adapters: Adapters | None
) -> tuple[list[Encoded], list[tuple[int, int]], Adapters | None]:
    """Each ending of each row as a row, the pairs among them, and what serves them."""
    found: list[Encoded] = []
    pairs: list[tuple[int, int]] = []
    of: list[int] = []
    for place, row in enumerate(rows):
        endings = row.endings
        if len(endings) == 2:
            pairs.append((len(found), len(found) + 1))
        found += endings
        of += [place] * len(endings)
    return found, pairs, None if adapters is None else [adapters[place] for place in of]


def _renumbered_pairs(pairs: Sequence[tuple[int, int]], rows: Sequence[int]) -> list[tuple[int, int]]:
    places = {row: place for place, row in enumerate(rows)}
    return [(places[one], places[other]) for one, other in pairs if one in places and other in places]


def _renumbered(parents: Sequence[int], rows: Sequence[int]) -> list[int]:
    places = {row: place for place, row in enumerate(rows)}
    return [places.get(parent, -1) for parent in parents]


def _offsets(lengths: Sequence[int]) -> list[int]:
    return [0, *itertools.accumulate(lengths)]
