"""The reference of a KL term without a second forward pass: its hidden states, computed once for all epochs and runs.

The rows that are compared do not change, and the checkpoint that the stage started from does not either. Where it is
the base without adapters, the states of those rows are computed before the first step and kept in the cache that runs
share, by the digest of the weights and the rows. That pays where rows come more than once, and wherever the base's own
weights train: there it stands in for a whole second copy of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.generation import evaluating
from keeptune.engine.head import Head, head_of
from keeptune.engine.rows import off
from keeptune.engine.shared_rows import can_share
from keeptune.engine.trunk import trunk_states
from keeptune.losses import Loss
from keeptune.models.anatomy import anatomy_of
from keeptune.models.tensor_store import TensorStore

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.engine.batch import PackedBatch
    from keeptune.stages._plan import Plan

LIMIT_BYTES = 2 << 30
"""Of states held in memory; a stage with more asks the model itself in every step."""

Key = tuple[str, str]


@dataclass(frozen=True)
class KeptReference:
    """What a `Reference` says, read instead of computed.

    Attributes:
        states: (tokens, D) behind the final norm, by source and id of the row.
        head: of the reference.
    """

    states: Mapping[Key, Tensor]
    head: Head

    def hidden(self, batch: PackedBatch, rows: Tensor) -> Tensor:
        """Hidden states [N, D] at the positions `rows`, which ascend."""
        segments, places = batch.segment_of()[rows], batch.positions[rows].cpu()
        found = []
        for segment in sorted(set(segments.tolist())):
            states = self.states[batch.sources[segment], batch.ids[segment]]
            found.append(states[places[(segments == segment).cpu()]])
        return torch.cat(found).to(self.head.weight.device)


def compared_rows(losses: Sequence[Loss], plan: Plan) -> list[Encoded]:
    """The rows of a plan that some loss compares with the reference, each once."""
    sources = [loss.on for loss in losses if loss.needs_reference]
    return [row for row in plan.unique_rows() if None in sources or row.source in sources]


@dataclass(frozen=True)
class Compared:
    """The rows that a stage compares with the reference.

    Attributes:
        tokens: of all of them, each row once.
        again: whether some come more than once.
        apart: whether source and id tell them apart; a long row that was split has one id for all its parts.
    """

    tokens: int
    again: bool
    apart: bool

    @classmethod
    def of(cls, losses: Sequence[Loss], plan: Plan) -> Compared:
        """Of a stage's losses and plan."""
        rows = compared_rows(losses, plan)
        return cls(
            tokens=sum(len(row.tokens) for row in rows),
            again=plan.drawn_from({row.source for row in rows}) > len(rows),
            apart=len({(row.source, row.id) for row in rows}) == len(rows),
        )

    def worth_keeping(self, width_bytes: int, *, copied: bool) -> bool:
        """Whether the states of the rows save work or memory, and fit.

        Args:
            width_bytes: of one token's state.
            copied: whether the reference would be a second model.
        """
        return 0 < self.tokens * width_bytes <= LIMIT_BYTES and self.apart and (self.again or copied)


NONE = Compared(0, again=False, apart=True)


def kept_reference(
    model: PreTrainedModel, losses: Sequence[Loss], plan: Plan, cache: Path | None, *, copied: bool
) -> KeptReference | None:
    """The states of a stage's reference, where that is the base without adapters; None where they do not pay.

    Args:
        model: at the weights that the stage starts from.
        losses: of the stage.
        plan: its rows.
        cache: the folder that runs share; None keeps the states in memory alone.
        copied: whether the base's own weights train, so that the head is kept as it is now.
    """
    rows, weight = compared_rows(losses, plan), model.get_input_embeddings().weight
    found = Compared.of(losses, plan)
    if not found.worth_keeping(weight.shape[1] * weight.element_size(), copied=copied) or not can_share(model):
        return None
    layers = len(anatomy_of(model).layers)
    try:
        below = trunk_states(model, rows, layers, store=None if cache is None else TensorStore(cache / "trunks"))
    except PlanError:
        return None
    norm = model.get_submodule(anatomy_of(model).final_norm)
    with torch.no_grad(), evaluating(model), off(model):
        states = [norm(state.to(weight.device)[None])[0].cpu() for state in below]
    head = head_of(model)
    if copied:
        bias = None if head.bias is None else head.bias.detach().clone()
        head = Head(head.weight.detach().clone(), bias, head.soft_cap, head.scale)
    keys = [(row.source, row.id) for row in rows]
    return KeptReference(dict(zip(keys, states, strict=True)), head)
