"""A packed batch through a model that takes padded rows only: encoder-decoders, and DeBERTa's encoder.

What comes back lies where it would in a packed pass, token by token. In an encoder-decoder a row is a request and its
answer, which begins with the row's first target: the encoder reads the request, and the decoder's state that predicts
token t stands at t - 1. Requests have no state behind the decoder, so theirs are zeros.

Shapes: S rows of T tokens in all, N tokens of the longest row, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.engine.batch import PackedBatch
from keeptune.engine.captured import capturing
from keeptune.engine.encoder_prompt import laid_out
from keeptune.engine.prompt_rows import Surrounding
from keeptune.engine.request_parts import requests, starting
from keeptune.engine.token_types import token_types

if TYPE_CHECKING:
    from keeptune.engine.template_slot import TemplateSlot


class States(NamedTuple):
    """Hidden states, aligned with the tokens of a batch.

    Attributes:
        hidden: `[T, D]` before the head.
        layers: when asked for: `[T, D]` of the embeddings and behind each block (of the encoder, in an
            encoder-decoder).
        masked: `[S, D]` the states at the masks of the rows' templates; None where no row has a template.
        spans: the states of each row, where they do not lie as its tokens do: in an image encoder.
        read: `[R, D]` those that the batch `reads`, where the pass had the others only as far as these need them.
    """

    hidden: Tensor
    layers: tuple[Tensor, ...] = ()
    masked: Tensor | None = None
    spans: list[tuple[int, int]] | None = None
    read: Tensor | None = None


def padded_encoder(
    model: PreTrainedModel, batch: PackedBatch, templates: TemplateSlot | None, *, layers: bool
) -> States:
    """The states of an encoder; `batch` is on its device, and `templates` are those on the model."""
    spans = list(itertools.pairwise(batch.offsets))
    tokens, mask = _padded([batch.tokens[a:b] for a, b in spans], _pad(model))
    types, given = token_types(model, batch.tokens, batch.offsets), {}
    if types is not None:
        given["token_type_ids"] = _padded([types[a:b] for a, b in spans], 0)[0]
    with capturing(model, layers) as between:
        hidden = model.base_model(input_ids=tokens, attention_mask=mask, **given).last_hidden_state
    real, width = mask.bool(), mask.shape[1]
    if templates is not None and templates.layout is not None:
        return States(hidden[real], tuple(templates.aligned(state)[real] for state in between), templates.masked)
    # Virtual tokens stand before the text: it is the last of the columns.
    return States(hidden[real], tuple(state[:, -width:][real] for state in between))


def encoder_decoder(
    model: PreTrainedModel, batch: PackedBatch, virtual: Sequence[Surrounding], *, layers: bool
) -> States:
    """The states of an encoder-decoder; `batch` is on its device.

    Args:
        model: of that kind.
        batch: the rows; those that serve them are set already.
        virtual: virtual tokens that the encoder sees around each row.
        layers: give back the encoder's states too.
    """
    spans = requests(batch)
    tokens, mask = _padded([batch.tokens[start:end] for start, end in spans], _pad(model))
    with capturing(model, layers) as between, starting(batch.starts):
        encoded = model.get_encoder()(input_ids=tokens, attention_mask=mask).last_hidden_state
    hidden = encoded.new_zeros(len(batch.tokens), encoded.shape[-1])
    answers = [batch.tokens[end:stop] for (_, end), stop in zip(spans, batch.offsets[1:], strict=True)]
    if any(len(answer) for answer in answers):
        begin = batch.tokens.new_full((1,), model.config.decoder_start_token_id)
        given, real = _padded([torch.cat([begin, answer])[: max(1, len(answer))] for answer in answers], _pad(model))
        decoded = model.get_decoder()(
            input_ids=given,
            attention_mask=real,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        parts = [(end - 1, stop - 1) for (_, end), stop in zip(spans, batch.offsets[1:], strict=True)]
        index = torch.cat([torch.arange(start, stop) for start, stop in parts]).to(hidden.device)
        chosen = torch.cat([decoded[row, : stop - start] for row, (start, stop) in enumerate(parts)])
        hidden = hidden.index_copy(0, index, chosen.to(hidden.dtype))
    if not layers:
        return States(hidden)
    index = torch.cat([torch.arange(start, end) for start, end in spans]).to(hidden.device)
    texts = [starts.texts for starts in batch.starts or ()]
    own = laid_out(mask, virtual, encoded.shape[1] - mask.shape[1], texts).tokens
    columns = own[:, :, None].expand(-1, -1, encoded.shape[-1])
    text = [state.gather(1, columns)[mask.bool()] for state in (*between[:-1], encoded)]
    return States(hidden, tuple(torch.zeros_like(hidden).index_copy(0, index, state) for state in text))


def _pad(model: PreTrainedModel) -> int:
    return int(model.config.pad_token_id or 0)


def _padded(rows: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask `[S, N]`, the pads behind."""
    tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()
