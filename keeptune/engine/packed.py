"""packed_hidden: the decoder's body over a packed batch, every row as if it were alone."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.attention import segments, use_attention
from keeptune.engine.batch import PackedBatch
from keeptune.engine.fused.body import fused_hidden
from keeptune.engine.fused.obstacle import obstacle
from keeptune.engine.positions import UsualPositions
from keeptune.engine.rotary import rotary_groups


def packed_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The hidden states behind the final norm, before the head.

    Soft prompts that serve a row stand before its text inside; their positions are removed again.

    Args:
        model: a causal language model of a known family.
        batch: the rows; its `adapters`, when given, choose what serves each of them.

    Returns:
        (T, D), aligned with `batch.tokens`, on the model's device.

    Raises:
        PlanError: the model's family (E-MODEL-FAMILY) or its rotary embedding (E-MODEL-ROPE) does not allow it.
    """
    use_attention(model)
    groups = rotary_groups(model.config, batch.lengths)
    if len(groups) == 1:
        return _one_pass(model, batch)
    parts, places = [], []
    for group in groups:
        part, index = batch.select(group)
        parts.append(_one_pass(model, part))
        places.append(index)
    back = torch.cat(places).argsort().to(parts[0].device)
    return torch.cat(parts)[back]


def _one_pass(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    batch = batch.to(model.get_input_embeddings().weight.device)
    with _serving(model, batch), _decided(model, batch):
        book = getattr(model, "keeptune", None)
        expanded = book.expand(batch) if book is not None else None
        if expanded is None:
            return _body(model, batch.positions, batch.offsets, batch.parents, input_ids=batch.tokens[None])
        assert batch.parents is None, "rows that share their beginning have no soft prompts"
        embedded, positions, offsets, keep = expanded
        lengths = [end - start for start, end in itertools.pairwise(offsets)]
        if len(rotary_groups(model.config, lengths)) > 1:
            raise PlanError(
                "with their soft prompts, some rows exceed the original context of this model's `longrope` and some do "
                "not.",
                code="E-MODEL-ROPE",
                fix="Leave room for the virtual tokens: use shorter rows.",
            )
        return _body(model, positions, offsets, None, inputs_embeds=embedded)[keep]


def _body(
    model: PreTrainedModel, positions: Tensor, offsets: list[int], parents: list[int] | None, **inputs: Tensor
) -> Tensor:
    """The fused body where nothing is in its way, else the model's own modules, with equal results.

    `model.body_path` says afterwards which one ran: `fused`, or `modules: ` and the reason.
    """
    with segments(offsets, parents) as packed:
        reason = obstacle(model, len(positions))
        model.body_path = "fused" if reason is None else f"modules: {reason}"
        if reason is None:
            embedded = inputs.get("inputs_embeds")
            embedded = model.base_model.embed_tokens(inputs["input_ids"]) if embedded is None else embedded
            return fused_hidden(model, packed, positions, embedded[0])
        first = UsualPositions.of(model).first
        output = model.base_model(position_ids=positions[None] + first, use_cache=False, **inputs)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _serving(model: PreTrainedModel, batch: PackedBatch) -> AbstractContextManager[object]:
    """Each row's own adapters, where the batch names them."""
    if batch.adapters is None:
        return nullcontext()
    from keeptune.engine.rows import rows

    return rows(model, batch.adapters)


def _decided(model: PreTrainedModel, batch: PackedBatch) -> AbstractContextManager[object]:
    """Each row's gates, where a policy sets them."""
    book = getattr(model, "keeptune", None)
    return nullcontext() if book is None else book.deciding(batch)
