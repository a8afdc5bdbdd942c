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
from keeptune.stages._compared import Compared, compared_rows

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch
    from keeptune.stages._plan import Plan

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
