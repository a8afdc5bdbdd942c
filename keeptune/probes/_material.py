"""States and answers of texts, in the batches that a probe learns from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.data.probe_tasks import UNSCORED, Answers
from keeptune.probes import Kind

BATCH_TEXTS = 20
ALIKE_TEXTS = 5
"""Texts of a batch, by length, whose pairs of words are scored together: padding is squared there."""


@dataclass(frozen=True)
class Material:
    """S texts with U units.

    Attributes:
        states: `[U, D]`.
        offsets: S + 1 numbers; text s owns the units offsets[s] to offsets[s + 1].
        answers: `[U]`; -1 is not asked.
        kind: labels or edges.
    """

    states: Tensor
    offsets: tuple[int, ...]
    answers: Tensor
    kind: Kind

    @classmethod
    def of(cls, states: Tensor, answers: Sequence[Answers], kind: Kind) -> Material:
        """From answers by text."""
        offsets = tuple(itertools.accumulate(map(len, answers), initial=0))
        flat = [answer for row in answers for answer in row]
        return cls(states, offsets, torch.tensor(flat, dtype=torch.long), kind)

    @property
    def texts(self) -> int:
        """S."""
        return len(self.offsets) - 1

    @cached_property
    def _by_text(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[int]]:
        """Views of the states and answers of each text, and lengths, made once: an epoch is then little but copying."""
        lengths = self.lengths()
        return torch.split(self.states, lengths), torch.split(self.answers, lengths), lengths

    def part(self, texts: Sequence[int]) -> Material:
        """Some of the texts, in that order."""
        states, answers, lengths = self._by_text
        offsets = tuple(itertools.accumulate((lengths[text] for text in texts), initial=0))
        cut = [torch.cat([own[text] for text in texts]) for own in (states, answers)]
        return Material(cut[0], offsets, cut[1], self.kind)

    def batches(self, order: Sequence[int]) -> Iterator[Material]:
        """Twenty texts at a time."""
        for start in range(0, len(order), BATCH_TEXTS):
            yield self.part(order[start : start + BATCH_TEXTS])

    def lengths(self) -> list[int]:
        """Units of each text."""
        return [end - start for start, end in itertools.pairwise(self.offsets)]

    def scored(self) -> Tensor:
        """`[U]` whether a unit is asked."""
        return self.answers != UNSCORED

    def text_of(self) -> Tensor:
        """`[U]` the text of each unit."""
        return torch.repeat_interleave(torch.arange(self.texts), torch.tensor(self.lengths(), dtype=torch.long))

    def log_shares(self, net: nn.Module) -> Tensor:
        """`[A, C]` (labels) or `[A, N]` (heads) log softmax of the scores of the A units that are asked, in order."""
        if self.kind == "labels":
            return functional.log_softmax(net(self.states[self.scored()]), dim=-1)
        lengths, states = self.lengths(), torch.split(self.states, self.lengths())
        ascending, widest = sorted(range(self.texts), key=lengths.__getitem__), max(lengths)
        shares = [self.states] * self.texts
        for start in range(0, self.texts, ALIKE_TEXTS):
            own = ascending[start : start + ALIKE_TEXTS]
            padded = nn.utils.rnn.pad_sequence([states[text] for text in own], batch_first=True)
            real = torch.arange(padded.shape[1]) < torch.tensor([lengths[text] for text in own])[:, None]
            scores = functional.log_softmax(net(padded).masked_fill(~real[:, None, :], -torch.inf), dim=-1)
            scores = functional.pad(scores, (0, widest - padded.shape[1]), value=-torch.inf)
            for text, rows in zip(own, scores, strict=True):
                shares[text] = rows[: lengths[text]]
        return torch.cat(shares)[self.scored()]

    def asked(self) -> Tensor:
        """`[A]` the answers of the units that are asked."""
        return self.answers[self.scored()]
