"""Rows of tokens drawn from the encoded streams, without a random state to keep.

The k-th row of a stream starts at the fractional part of k times the golden ratio: rows cover a stream
evenly, no window comes twice before the others came once, and a run resumes exactly from the counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2
IGNORED = -100


@dataclass(frozen=True)
class Stream:
    """An encoded stream: its tokens, where learning is wanted, and where documents start."""

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Stream:
        """Read one stream that `prepare.py` wrote."""
        arrays = load_file(str(path))
        return cls(arrays["tokens"], arrays["learned"], arrays["starts"])

    def begin(self, drawn: int, length: int) -> int:
        """Where row number `drawn` begins.

        The cover is even, but moved back to the start of the document when that start is at most half a
        row away, so that short documents are seen whole.
        """
        offset = int((drawn * GOLDEN) % 1.0 * (len(self.tokens) - length - 1))
        start = int(self.starts[np.searchsorted(self.starts, offset, side="right") - 1])
        return start if offset - start <= length // 2 else offset


class Mixture:
    """Batches with a fixed number of rows from each stream.

    Args:
        streams: the encoded training streams by name.
        rows: rows of each stream in a batch.
        length: T, tokens of a row.
        masked: names of streams in which only the marked tokens are learned.
    """

    def __init__(self, streams: dict[str, Stream], rows: dict[str, int], length: int, masked: frozenset[str]) -> None:
        self.streams, self.rows, self.length, self.masked = streams, rows, length, masked

    def draw(self, drawn: dict[str, int]) -> tuple[Tensor, Tensor]:
        """The next batch: inputs and labels, both B x T; `drawn` (rows used so far by stream) is advanced."""
        tokens, labels = [], []
        for name, count in self.rows.items():
            stream = self.streams[name]
            for _ in range(count):
                begin = stream.begin(drawn.get(name, 0), self.length)
                drawn[name] = drawn.get(name, 0) + 1
                row = stream.tokens[begin : begin + self.length + 1].astype(np.int64)
                target = row[1:].copy()
                if name in self.masked:
                    target[stream.learned[begin + 1 : begin + self.length + 1] == 0] = IGNORED
                tokens.append(row[:-1])
                labels.append(target)
        return torch.from_numpy(np.stack(tokens)), torch.from_numpy(np.stack(labels))


def even_rows(stream: Stream, length: int, limit: int) -> Tensor:
    """Up to `limit` adjoining windows, spread evenly over a held-out stream: N x (T + 1)."""
    available = (len(stream.tokens) - 1) // length
    chosen = np.unique(np.linspace(0, available - 1, min(limit, available)).astype(int))
    return torch.from_numpy(
        np.stack([stream.tokens[i * length : i * length + length + 1] for i in chosen]).astype(np.int64)
    )
