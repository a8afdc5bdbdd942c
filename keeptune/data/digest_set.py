"""A set of 64-bit digests that holds eight bytes for each, where Python's own takes some eighty."""

from __future__ import annotations

import numpy as np

RECENT = 1 << 16


class DigestSet:
    """Digests as `hash` gives them: the latest in a set of Python's, all others in one sorted array."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.int64)

    def add(self, digest: int) -> bool:
        """Takes a digest; whether it is new."""
        if digest in self._recent or self._settled(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) == RECENT:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.int64)]))
            self._recent.clear()
        return True

    def _settled(self, digest: int) -> bool:
        place = self._sorted.searchsorted(digest) if len(self._sorted) else 0
        return bool(place < len(self._sorted) and self._sorted[place] == digest)
