"""Facility location: examples such that every example has one like it among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from keeptune.core.example import Example
from keeptune.selectors import Context, Need, Selection, Selector, embeddings_of
from keeptune.selectors._lazy_greedy import lazy_greedy
from keeptune.selectors._vectors import unit


class FacilityLocation(Selector):
    """Maximises f(S) = sum_i max_{j in S} s_ij with s = (1 + cosine) / 2, one example at a time.

    f is monotone and submodular, so the greedy choice reaches at least 1 - 1/e of the best possible value (Nemhauser,
    Wolsey and Fisher 1978), and an example's gain only falls: it is computed again only when its old value, an upper
    bound, is the largest (lazy greedy, Minoux 1978). An outlier serves nobody but itself, so it comes late, unlike in
    `kcenter`. Time and memory: N^2 products once, then a few thousand per choice; N x D numbers are held.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings"})

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples in the order of choice; the score is what each adds to f / N."""
        count = self.budget(examples)
        indices, gains = lazy_greedy(unit(embeddings_of(examples, context)), count)
        scores = tuple(gain / len(examples) for gain in gains)
        return Selection(indices, scores, tuple(f"adds {score:.4g} to the mean similarity" for score in scores))
