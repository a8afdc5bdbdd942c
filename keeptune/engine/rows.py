"""Rows: which adapters serve which rows of a batch, for as long as a `with` block lasts.

Training several adapters at once, gates per row and serving a thousand users are this one mechanism. In a padded batch
a row is a row; in a packed batch a row is a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.book import book_of, unknown_adapter
from keeptune.engine.selection import Serving, Stack

Assignment = str | Sequence[str] | None


def stack_of(assignment: Assignment) -> Stack:
    """`None` is the base, a name one adapter, a sequence of names a stack (first applied first).

    Raises:
        PlanError: an adapter twice in one stack (E-ROWS-TWICE).
    """
    stack = () if assignment is None else (assignment,) if isinstance(assignment, str) else tuple(assignment)
    if len(set(stack)) < len(stack):
        raise PlanError(f"a row names an adapter twice: {', '.join(stack)}.", code="E-ROWS-TWICE")
    return stack


@contextmanager
def rows(model: PreTrainedModel, assignments: Sequence[Assignment], *, repeat: int = 1) -> Iterator[None]:
    """Inside, row i is served by `assignments[i]`; the result of each row is that of a batch of that row alone.

    Args:
        model: with the adapters attached.
        assignments: per row of the batch (packed: per segment) a name, a stack of names, or None for the base.
        repeat: rows of the batch per assignment: `num_beams` or `num_return_sequences` of `model.generate`.

    Raises:
        PlanError: an unknown name (E-ADAPTER-NAME), or a name instead of a list (E-ROWS-LIST); at the forward pass,
            another number of rows (E-ROWS-COUNT).

    >>> with rows(model, ["ana", "bo", None]):  # doctest: +SKIP
    ...     logits = model(**batch).logits
    """
    with serve(model, serving_of(assignments, repeat=repeat)):
        yield


def serving_of(assignments: Sequence[Assignment], *, repeat: int = 1) -> Serving:
    """What `rows` sets; who sets it for many passes spares them the preparation.

    Raises:
        PlanError: a name instead of a list (E-ROWS-LIST).
    """
    if isinstance(assignments, str):
        raise PlanError(
            f"rows are served by a list with one entry per row, and '{assignments}' is a single name.",
            code="E-ROWS-LIST", fix=f"Write ['{assignments}', ...], or active(model, '{assignments}') for every row.",
        )  # fmt: skip
    return Serving([stack for stack in map(stack_of, assignments) for _ in range(repeat)], repeat=repeat)


@contextmanager
def active(model: PreTrainedModel, names: Assignment) -> Iterator[None]:
    """Inside, this stack serves every row."""
    with serve(model, Serving(every=stack_of(names))):
        yield


def off(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Inside, no adapter serves any row: the base. Weights that `full` trained stay as they are."""
    return active(model, None)


@contextmanager
def gated(model: PreTrainedModel, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the deltas of each named adapter that compose by `Gate` are scaled by its `[rows, layers]` gates."""
    book = book_of(model)
    for name in gates:
        if book is None or name not in book:
            raise unknown_adapter(name, [] if book is None else book.order)
    now = Serving() if book is None else book.serving
    with serve(model, now.with_gates(gates)):
        yield


@contextmanager
def serve(model: PreTrainedModel, serving: Serving) -> Iterator[None]:
    """Inside, `serving` decides who serves which row."""
    book = book_of(model)
    if book is None:
        if serving.names:
            raise unknown_adapter(min(serving.names), [])
        yield
        return
    with book.serve(serving):
        yield
