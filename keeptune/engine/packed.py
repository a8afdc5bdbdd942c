"""packed_hidden: the model's body over a packed batch, every row as if it were alone."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import PackedBatch
from keeptune.engine.captured import capturing
from keeptune.engine.even import even_size
from keeptune.engine.fused.body import fused_hidden
from keeptune.engine.fused.obstacle import obstacle
from keeptune.engine.images import image_states, pixel_values
from keeptune.engine.kernels import multiplying
from keeptune.engine.learning import learns
from keeptune.engine.padded import States, encoder_decoder, padded_encoder
from keeptune.engine.positions import UsualPositions
from keeptune.engine.prompt_rows import NO_VIRTUAL
from keeptune.engine.rotary import rotary_groups
from keeptune.engine.segments import segments
from keeptune.engine.template_slot import TemplateSlot
from keeptune.engine.token_types import token_types
from keeptune.models.families import FAMILIES


def packed_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The hidden states behind the final norm, before the head.

    Soft prompts that serve a row stand before its text inside; their positions are removed again.

    Args:
        model: of a known family.
        batch: the rows; its `adapters`, when given, choose what serves each of them.

    Returns:
        (T, D), aligned with `batch.tokens`, on the model's device. Where the batch says where it is read, the others
        may have no numbers.

    Raises:
        PlanError: the model's family (E-MODEL-FAMILY) or its rotary embedding (E-MODEL-ROPE) does not allow it.
    """
    return packed_states(model, batch).hidden


def packed_states(model: PreTrainedModel, batch: PackedBatch, *, layers: bool = False) -> States:
    """As `packed_hidden`, and with `layers` the states between the blocks too."""
    family = FAMILIES.get(model.config.model_type)
    if family is not None and family.kind == "image":
        with _serving(model, batch):
            return image_states(model, pixel_values(model, batch), layers=layers)
    if family is not None and (family.kind == "encoder_decoder" or not family.registry or _templates(model)):
        return _padded(model, batch, layers)
    use_attention(model)
    groups = rotary_groups(model.config, batch.lengths)
    if len(groups) == 1:
        return _one_pass(model, batch, layers)
    parts, places = [], []
    for group in groups:
        part, index = batch.select(group)
        parts.append(_one_pass(model, part, layers))
        places.append(index)
    back = torch.cat(places).argsort().to(parts[0].hidden.device)
    between = zip(*(part.layers for part in parts), strict=True)
    return States(
        torch.cat([part.hidden for part in parts])[back], tuple(torch.cat(states)[back] for states in between)
    )


def _padded(model: PreTrainedModel, batch: PackedBatch, layers: bool) -> States:
    batch = batch.to(model.device)
    model.body_path = f"modules: padded rows, for the family {model.config.model_type}"
    with _serving(model, batch):
        if FAMILIES[model.config.model_type].kind == "encoder":
            return padded_encoder(model, batch, _templates(model), layers=layers)
        book, count = getattr(model, "keeptune", None), len(batch.offsets) - 1
        virtual = [NO_VIRTUAL] * count if book is None else book.virtual_tokens(count)
        return encoder_decoder(model, batch, virtual, layers=layers)


def _one_pass(model: PreTrainedModel, batch: PackedBatch, layers: bool) -> States:
    batch = batch.to(model.device)
    with _serving(model, batch), _decided(model, batch):
        book = getattr(model, "keeptune", None)
        expanded = book.expand(batch) if book is not None else None
        types = _types(model, batch)
        if expanded is None:
            tokens = {"input_ids": batch.tokens[None], **{name: own[None] for name, own in types.items()}}
            return _body(model, batch.positions, batch.offsets, batch.parents, layers, batch.reads, **tokens)
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
        wide = {name: torch.zeros_like(positions).index_copy_(0, keep, own)[None] for name, own in types.items()}
        states = _body(model, positions, offsets, None, layers, None, inputs_embeds=embedded, **wide)
        return States(states.hidden[keep], tuple(state[keep] for state in states.layers))


def _body(
    model: PreTrainedModel,
    positions: Tensor,
    offsets: list[int],
    parents: list[int] | None,
    layers: bool,
    reads: Tensor | None,
    **inputs: Tensor,
) -> States:
    """The fused body where nothing is in its way, else the model's own modules, with equal results.

    `model.body_path` says afterwards which one ran: `fused`, or `modules: ` and the reason.
    """
    family, count = FAMILIES.get(model.config.model_type), len(positions)
    causal = family is None or family.kind == "decoder"
    with segments(offsets, parents):
        reason = obstacle(model, count) or ("states between the blocks" if layers else None)
    model.body_path = "fused" if reason is None else f"modules: {reason}"
    weight = model.get_input_embeddings().weight
    if causal and not (reason is None and learns() and multiplying(weight)):
        positions, offsets, inputs = _longer(even_size(count, weight) - count, positions, offsets, inputs)
    with segments(offsets, parents) as packed, capturing(model, layers) as between:
        if reason is None:
            embedded = inputs.get("inputs_embeds")
            embedded = model.base_model.embed_tokens(inputs["input_ids"]) if embedded is None else embedded
            fused = fused_hidden(model, packed, positions, embedded[0], reads=reads)
            return States(fused.hidden[:count], read=fused.read)
        if causal:
            inputs["use_cache"] = False  # type: ignore[assignment]
        first = UsualPositions.of(model).first
        output = model.base_model(position_ids=positions[None] + first, **inputs)
    hidden: Tensor = output.last_hidden_state.squeeze(0)[:count]
    return States(hidden, (*(state.squeeze(0)[:count] for state in between[:-1]), hidden) if layers else ())


def _longer(
    missing: int, positions: Tensor, offsets: list[int], inputs: dict[str, Tensor]
) -> tuple[Tensor, list[int], dict[str, Tensor]]:
    """The last row with so many tokens more: nothing before them sees them."""
    if not missing:
        return positions, offsets, inputs
    further = positions[-1].expand(missing)  # a table of positions may end there
    # (1, T) ids or (1, T, D) embeddings.
    inputs = {name: functional.pad(x, (0, 0) * (x.dim() - 2) + (0, missing)) for name, x in inputs.items()}
    return torch.cat([positions, further]), [*offsets[:-1], offsets[-1] + missing], inputs


def _types(model: PreTrainedModel, batch: PackedBatch) -> dict[str, Tensor]:
    """The types of an encoder's tokens, where a row has several texts."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or family.kind != "encoder":
        return {}
    found = token_types(model, batch.tokens, batch.offsets)
    return {} if found is None else {"token_type_ids": found}


def _templates(model: PreTrainedModel) -> TemplateSlot | None:
    """Where templates are put around texts; they lay out rows, not segments."""
    book = getattr(model, "keeptune", None)
    return None if book is None else book.templates


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
