"""Words weighted by how rare they are, in as few dimensions as keep most of it: needs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.normalise import whole
from keeptune.selectors import Context
from keeptune.selectors._vectors import unit
from keeptune.selectors.encoders import Encoder


class Tfidf(Encoder):
    """Latent semantic analysis (Deerwester et al. 1990, JASIS 41:391-407) of the examples of one call.

    x_nv = tf_nv (ln((1 + N) / (1 + df_v)) + 1), each row at length 1; then the `width` largest singular directions of
    X = U S V': the vectors are the rows of U S, at length 1. With a width of the rank of X all cosines are those of X.
    """

    needs_model: ClassVar[bool] = False

    width: int = Field(256, ge=2, le=4096, description="dimensions, where there are more words")
    least: int = Field(2, ge=1, description="a word in fewer examples than this says nothing about likeness")

    def encode(self, examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
        """[N, D] in float32; an example without a known word is a vector of zeros.

        Raises:
            DataError: no word is in enough of the examples (E-SELECT-WORDS).
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.linalg import svds

        texts = [Counter(whole(example)) for example in examples]
        spread = Counter(word for text in texts for word in text)
        known = {word: column for column, word in enumerate(sorted(w for w, n in spread.items() if n >= self.least))}
        if not known:
            raise DataError(
                f"no word is in {self.least} of the {len(examples)} examples, so none are alike by their words.",
                code="E-SELECT-WORDS",
                fix="Encode with a model: --encoder mean --model pocket.",
            )
        rarity = {word: np.log((1 + len(texts)) / (1 + spread[word])) + 1 for word in known}
        cells = [
            (row, known[w], n * rarity[w]) for row, text in enumerate(texts) for w, n in text.items() if w in known
        ]
        rows, columns, values = (np.array(part) for part in zip(*cells, strict=True))
        matrix = csr_matrix((values, (rows, columns)), shape=(len(texts), len(known)))
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix = csr_matrix(matrix.multiply(1 / np.where(lengths > 0, lengths, 1)[:, None]))
        if min(matrix.shape) <= self.width:
            left, sizes, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
        else:
            left, sizes, _ = svds(matrix, k=self.width, v0=np.ones(min(matrix.shape)))
        return np.asarray(unit(left * sizes), dtype=np.float32)
