"""What losses must know before the first step: the base's losses on the training rows, the start, the importance.

All of it is worked out again when a run resumes, from the same weights and rows, so none of it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from keeptune.losses import Loss
from keeptune.losses._weighted_rows import token_losses
from keeptune.stages._anchor import Anchor, fisher, own_generators
from keeptune.stages._kept import KeptReference
from keeptune.stages._reference import Reference
from keeptune.stages._step import Objective, micro_batches

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.stages._on_policy import Teacher
    from keeptune.stages._plan import Plan

MOST_ROWS = 2000
"""Rows whose base losses are looked at: the median of so many is known within two percentiles."""
TOKENS_AT_ONCE = 4096


def prepared(
    objective: Objective,
    plan: Plan,
    kept: Mapping[str, Sequence[Encoded]],
    seed: int,
    adapters: Callable[[str], tuple[str, ...]],
) -> Objective:
    """The objective with its losses calibrated and anchored, at the weights that the stage starts from.

    Args:
        objective: with masters that did not move yet.
        plan: the rows that will be trained on.
        kept: rows of the sources that losses look at beside.
        seed: of the stage.
        adapters: that serve such a source.
    """

    @cache
    def row_losses(source: str | None) -> tuple[float, ...]:
        assert objective.reference is not None, "a calibrated loss says that it needs a reference"
        better = [row.endings[0] for row in plan.unique_rows() if source in (None, row.source)]
        rows = [row for row in better if any(row.learned[1:])]
        return mean_losses(objective.reference, rows[:: max(1, len(rows) // MOST_ROWS)])

    losses = [loss.calibrated(row_losses) for loss in objective.losses]
    pulling = {i: loss for i, loss in enumerate(losses) if loss.pulls}
    if not pulling:
        return replace(objective, losses=losses)
    start = Anchor.at(objective.masters)
    anchors = {
        i: _weighed(start, loss, objective, kept, seed, adapters) if loss.sources() else start
        for i, loss in pulling.items()
    }
    return replace(objective, losses=losses, anchors=anchors)


def _weighed(
    start: Anchor,
    loss: Loss,
    objective: Objective,
    kept: Mapping[str, Sequence[Encoded]],
    seed: int,
    adapters: Callable[[str], tuple[str, ...]],
) -> Anchor:
    """The anchor with the importance that the rows of the loss's source give."""
    source = loss.sources()[0]
    plain = replace(
        objective,
        losses=[Loss.find("next_token")()],
        stacks={source: adapters(source)},
        reference=None,
        penalty=lambda: None,
        trunk=None,
        anchors={},
    )
    rows = [row for row in kept[source] if any(row.learned[1:])][: getattr(loss, "fisher_rows", None)]
    with own_generators(seed), objective.masters.unremembered():
        return replace(start, importance=fisher(objective.masters, [partial(_backward, plain, row) for row in rows]))


def _backward(objective: Objective, row: Encoded) -> float:
    return float(objective.backward([row]).learned)


def mean_losses(reference: Reference | KeptReference | Teacher, rows: Sequence[Encoded]) -> tuple[float, ...]:
    """The reference's mean loss on the learned tokens of each row, in nats."""
    import torch

    found: list[float] = []
    with torch.no_grad():
        for batch in micro_batches(rows, TOKENS_AT_ONCE):
            here = batch.to(reference.head.weight.device)
            places = torch.nonzero(here.targets != -100).squeeze(-1)
            hidden = reference.hidden(here, places)
            losses = token_losses(hidden, here.targets[places], reference.head)
            row_of = here.segment_of()[places]
            found += [float(losses[row_of == row].mean()) for row in range(len(here.ids))]
    return tuple(found)
