"""The selectors shelf: which rows are worth training on, one rule per file. Filters and coresets are one noun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.spec import Spec


@dataclass(frozen=True)
class Selection:
    """What was chosen of N examples, best or first chosen first.

    Attributes:
        indices: of the chosen examples.
        scores: the selector's own measure of each.
        reasons: why each was chosen, in words.
    """

    indices: tuple[int, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What a selector may look at beside the examples.

    Attributes:
        seed: of whatever is drawn.
        embeddings: [N, D] a vector for each example, for selectors that work on distances.
    """

    seed: int = 0
    embeddings: NDArray[Any] | None = None


class Selector(Spec, shelf="keeptune.selectors"):
    """A rule that keeps some examples; the same examples, settings and seed give the same choice."""

    rows: int | None = Field(None, ge=1, description="how many to keep; unset: `share`")
    share: float = Field(0.1, gt=0, le=1, description="how much to keep, as a share of the examples")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Chooses among `examples`.

        Raises:
            DataError: there is nothing to choose from (E-SELECT-EMPTY), or no embeddings fit (E-SELECT-EMBEDDINGS).
        """
        raise NotImplementedError

    def budget(self, examples: Sequence[Example]) -> int:
        """How many are kept: at least one, at most all."""
        if not examples:
            raise DataError("there are no examples to choose from.", code="E-SELECT-EMPTY")
        return min(len(examples), self.rows or max(1, round(self.share * len(examples))))


def embeddings_of(examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
    """The embeddings [N, D] of the examples, in float32.

    Raises:
        DataError: there are none, or their number, shape or values do not fit (E-SELECT-EMBEDDINGS).
    """
    given = context.embeddings
    if given is None or given.ndim != 2 or len(given) != len(examples) or not np.isfinite(given).all():
        found = "none were given" if given is None else f"their shape is {given.shape}"
        raise DataError(
            f"this selector needs one finite vector for each of the {len(examples)} examples; {found}.",
            code="E-SELECT-EMBEDDINGS",
            fix="Embed the examples first, without leaving any out.",
        )
    return np.ascontiguousarray(given, dtype=np.float32)
