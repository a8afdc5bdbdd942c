"""DSIR: text whose words are as frequent as in the queries, drawn by importance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.example import Example
from keeptune.data.normalise import whole
from keeptune.selectors import Context, Need, Selection, Selector, best, queries_of


class Dsir(Selector):
    """Data selection by importance resampling (Xie et al. 2023, arXiv:2302.03169), good for picking replay text.

    Words and pairs of words are hashed into B buckets; p and q are their shares in the queries and in the examples:

        log w_i = sum over the words and pairs of example i of log((p_b + a) / (q_b + a))
        chosen: the greatest log w_i + Gumbel noise, a draw without replacement with chances proportional to w_i

    Texts below `least_words` are not drawn, as published: w_i is a sum over words, so it speaks of long texts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"queries"})

    buckets: int = Field(10_000, ge=16, le=10_000_000, description="B")
    smoothing: float = Field(1e-8, gt=0, description="a")
    least_words: int = Field(100, ge=0, description="shorter texts are not drawn")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples by falling noisy weight; the score is log w_i per word or pair, the noise left out."""
        count = self.budget(examples)
        own = [hashed(whole(example), self.buckets) for example in examples]
        wanted = [hashed(whole(query), self.buckets) for query in queries_of(context)]
        ratio_B = np.log(self._shares(wanted)) - np.log(self._shares(own))
        weights = np.array([ratio_B[buckets].sum() for buckets in own])
        noise = np.random.default_rng(context.seed).gumbel(size=len(own))
        long_enough = np.array([(len(buckets) + 1) // 2 >= self.least_words for buckets in own])
        chosen = best(weights + noise, count, long_enough)
        scores = [float(weights[place] / max(1, len(own[place]))) for place in chosen]
        reasons = tuple(f"log weight {score:.3g} per word" for score in scores)
        return Selection(tuple(map(int, chosen)), tuple(scores), reasons)

    def _shares(self, texts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        counts_B = np.bincount(np.concatenate([*texts, np.empty(0, np.int64)]), minlength=self.buckets)
        shares_B: NDArray[np.float64] = counts_B / max(1, counts_B.sum()) + self.smoothing
        return shares_B


def hashed(words: Sequence[str], buckets: int) -> NDArray[np.int64]:
    """The buckets of all words, then of all pairs of neighbours (CRC-32, the same on every machine)."""
    pairs = [f"{one} {other}" for one, other in itertools.pairwise(words)]
    return np.array([crc32(text.encode()) % buckets for text in (*words, *pairs)], dtype=np.int64)
