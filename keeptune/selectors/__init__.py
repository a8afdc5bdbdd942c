"""The selectors shelf: which rows are worth training on, one rule per file. Filters and coresets are one noun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.errors import DataError, PlanError
from keeptune.core.example import Example
from keeptune.core.spec import Spec

if TYPE_CHECKING:
    from keeptune.models.load import Loaded
    from keeptune.models.tensor_store import TensorStore

Need = Literal["embeddings", "queries", "model"]


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
        queries: examples of what the model is to become good at; they are never chosen.
        query_embeddings: [M, D] their vectors, of the same encoder.
        model: for selectors that read losses, answers or gradients off a model.
        store: where features that a model made are kept; None makes them anew.
    """

    seed: int = 0
    embeddings: NDArray[Any] | None = None
    queries: Sequence[Example] = ()
    query_embeddings: NDArray[Any] | None = None
    model: Loaded | None = None
    store: TensorStore | None = None


class Selector(Spec, shelf="keeptune.selectors"):
    """A rule that keeps some examples; the same examples, settings and seed give the same choice.

    Attributes:
        needs: what of the context it reads beside the seed.
        pooling: how the vectors are made that it is published with, by a name of the encoders' shelf.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    pooling: ClassVar[Literal["mean", "weighted"]] = "mean"

    rows: int | None = Field(None, ge=1, description="how many to keep; unset: `share`")
    share: float = Field(0.1, gt=0, le=1, description="how much to keep, as a share of the examples")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Chooses among `examples`.

        Raises:
            DataError: there is nothing to choose from (E-SELECT-EMPTY), nothing may be chosen (E-SELECT-NOTHING), no
                embeddings fit (E-SELECT-EMBEDDINGS), or there are no queries (E-SELECT-QUERIES).
            PlanError: there is no model, or it cannot do what is asked (E-SELECT-MODEL).
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
    return _checked(context.embeddings, len(examples), "example")


def query_embeddings_of(context: Context) -> NDArray[np.float32]:
    """The embeddings [M, D] of the queries, in float32.

    Raises:
        DataError: there are no queries (E-SELECT-QUERIES), or their embeddings do not fit (E-SELECT-EMBEDDINGS).
    """
    queries_of(context)
    return _checked(context.query_embeddings, len(context.queries), "query")


def queries_of(context: Context) -> Sequence[Example]:
    """The queries.

    Raises:
        DataError: there are none (E-SELECT-QUERIES).
    """
    if not context.queries:
        raise DataError(
            "this selector looks for examples that are like others, and none of those were given.",
            code="E-SELECT-QUERIES",
            fix="Name them: --queries FILE, some tens of examples of the task, never its test rows.",
        )
    return context.queries


def model_of(context: Context, kinds: Sequence[str] = ("decoder",)) -> Loaded:
    """The model, of a kind that fits.

    Raises:
        PlanError: there is none, or it is of another kind (E-SELECT-MODEL).
    """
    if context.model is None or context.model.anatomy.kind not in kinds:
        found = "none was given" if context.model is None else f"'{context.model.name}' is another kind"
        raise PlanError(
            f"this selector reads a model of the kind {' or '.join(kinds)}; {found}.",
            code="E-SELECT-MODEL",
            fix="Name one: --model pocket, a folder, or a hub id.",
        )
    return context.model


def best(scores: NDArray[Any], count: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """The places of the `count` greatest scores, greatest first; ties go to the lowest index.

    Raises:
        DataError: nothing is allowed (E-SELECT-NOTHING).
    """
    places = np.flatnonzero(np.isfinite(scores) if allowed is None else allowed & np.isfinite(scores))
    if not len(places):
        raise DataError(
            f"of {len(scores):,} examples none passes this selector's own bounds.",
            code="E-SELECT-NOTHING",
            fix="Loosen one with --set (keeptune show SELECTOR lists them), or use another: keeptune list selectors.",
        )
    found: NDArray[np.int64] = places[np.argsort(-scores[places], kind="stable")][:count]
    return found


def _checked(given: NDArray[Any] | None, count: int, noun: str) -> NDArray[np.float32]:
    if given is None or given.ndim != 2 or len(given) != count or not np.isfinite(given).all():
        found = "none were given" if given is None else f"their shape is {given.shape}"
        raise DataError(
            f"this selector needs one finite vector for each {noun}, {count} in all; {found}.",
            code="E-SELECT-EMBEDDINGS",
            fix="Embed them first, without leaving any out.",
        )
    return np.ascontiguousarray(given, dtype=np.float32)
