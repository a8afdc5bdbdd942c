"""Near duplicates by MinHash: texts that share most of their runs of three words (Broder 1997).

The similarity of two texts is the Jaccard index of their sets of runs, |A & B| / |A | B|. For a random order of all
runs, the chance that both sets have the same first run is that index; 64 orders estimate it with a standard error of
at most 0.06 (0.05 at 0.8). Pairs are found by 16 bands of 4 orders: of pairs at 0.8, one in 4,500 is missed.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

WORDS, ORDERS, BANDS = 3, 64, 16
NEAR = 0.8
# Below this many words one changed word is a change of meaning, not a variant: "is my card lost", "is my card late".
FEWEST_WORDS = 8
RUNS_AT_ONCE = 1024
"""Texts wait until they have so many runs, and are signed together."""
_FACTORS = np.random.default_rng(1997).integers(1, 2**63, ORDERS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

Runs = NDArray[np.uint32]
Signature = NDArray[np.uint32]


def runs_of(words: Sequence[str]) -> Runs:
    """The set of runs of three words, each as a 32-bit hash, ascending; empty for texts of fewer than eight words.

    The hash is CRC-32 of the words joined by blanks: the same on every machine.
    """
    if len(words) < FEWEST_WORDS:
        return np.empty(0, np.uint32)
    encoded = [word.encode() for word in words]
    joined, starts = b" ".join(encoded), [0, *accumulate(len(word) + 1 for word in encoded)]
    runs = zip(starts, starts[WORDS:], strict=False)
    return np.array(sorted({crc32(joined[start : behind - 1]) for start, behind in runs}), np.uint32)


def signature(runs: Runs) -> Signature:
    """The least hash of the runs under each of 64 orders [64]; runs are not empty."""
    least: Signature = signatures([runs])[0]
    return least


def signatures(texts: Sequence[Runs]) -> NDArray[np.uint32]:
    """The signature of each text [texts, 64], in one pass over all of them; no text is without runs.

    Order i of a run x is the high half of a_i (x + 1) mod 2^64, with a_i odd (multiply-shift hashing).
    """
    starts = np.cumsum([0, *map(len, texts[:-1])])
    mixed = _FACTORS[:, None] * (np.concatenate(texts).astype(np.uint64) + np.uint64(1))
    least: NDArray[np.uint32] = (np.minimum.reduceat(mixed, starts, axis=1).T >> np.uint64(32)).astype(np.uint32)
    return least


def similarity(one: Runs, other: Runs) -> float:
    """The exact Jaccard index of two sets of runs; 0 when both are empty."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


def band_keys(row: Signature) -> list[bytes]:
    """What two texts must share, in one band at least, to be compared."""
    width = ORDERS // BANDS
    return [bytes([band]) + row[band * width : (band + 1) * width].tobytes() for band in range(BANDS)]


class NearDuplicates:
    """Counts texts that are nearly an earlier one, holding 256 bytes for each."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._numbers = array("L")
        self._waiting: list[Runs] = []
        self._runs_waiting = 0

    def add(self, number: int, runs: Runs) -> None:
        """Takes the next text; one without runs is never a near duplicate."""
        if len(runs):
            self._numbers.append(number)
            self._waiting.append(runs)
            self._runs_waiting += len(runs)
            if self._runs_waiting >= RUNS_AT_ONCE:
                self._settle()

    def _settle(self) -> None:
        """Signs the texts that wait."""
        if self._waiting:
            self._held += signatures(self._waiting).tobytes()
            self._waiting, self._runs_waiting = [], 0

    def pairs(self) -> dict[int, int]:
        """The numbers of near duplicates, each with that of an earlier text, by estimated similarity of 0.8 or more.

        In a band, a text is compared with the first and with the previous one of equal key.
        """
        self._settle()
        rows = np.frombuffer(self._held, np.uint32).reshape(-1, ORDERS)
        found: dict[int, int] = {}
        width = ORDERS // BANDS
        for band in range(BANDS):
            halves = np.ascontiguousarray(rows[:, band * width : (band + 1) * width]).view(np.uint64)
            order = np.lexsort(halves.T)
            begins = np.ones(len(order), bool)
            begins[1:] = np.any([np.diff(half[order]) != 0 for half in halves.T], axis=0)
            later, firsts = np.flatnonzero(~begins), np.flatnonzero(begins)
            first = firsts[np.searchsorted(firsts, later, "right") - 1]
            for other in (first, later - 1):
                self._compare(rows, order[later], order[other], found)
        return found

    def _compare(
        self, rows: NDArray[np.uint32], later: NDArray[np.intp], earlier: NDArray[np.intp], found: dict[int, int]
    ) -> None:
        for start in range(0, len(later), 65_536):
            left, right = later[start : start + 65_536], earlier[start : start + 65_536]
            near = (rows[left] == rows[right]).mean(axis=1) >= NEAR
            for one, other in zip(left[near].tolist(), right[near].tolist(), strict=True):
                found.setdefault(self._numbers[one], self._numbers[other])
