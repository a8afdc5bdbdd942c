"""Unit states: what every layer of a model holds about each word, or about each text, computed once.

A unit's state is the mean over its tokens. All layers come from one pass over the texts, and are kept under a digest of
the weights, of what serves the model, of the tokens and of the units: a probe reads them as often as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.digest import digest_of
from keeptune.data.word_tokens import UnitRow
from keeptune.engine.batch import pack
from keeptune.engine.book import book_of
from keeptune.engine.captured import block_count
from keeptune.engine.generation import evaluating
from keeptune.engine.packed import packed_states
from keeptune.models.tensor_store import TensorStore, tensors_digest

REVISION = 1
BATCH_TOKENS = 8192
BATCH_ROWS = 64


def unit_states(model: PreTrainedModel, rows: Sequence[UnitRow], *, store: TensorStore | None = None) -> list[Tensor]:
    """For each layer `[U, D]` in float32 on the CPU: the embeddings, then behind each block, the last behind the norm.

    Of an encoder-decoder these are the encoder's. What serves the model now, serves.

    Args:
        model: of a known family that reads tokens, on any device.
        rows: texts with U units in all, in the order of the result; units without tokens are zeros.
        store: where the layers are kept, an entry each; None computes them.

    Raises:
        PlanError: the model's family does not allow it (E-MODEL-*).
    """
    if store is None:
        return _computed(model, rows)
    book = book_of(model)
    serving = [] if book is None else list(book.serving.shared or ())
    given = [[list(row.encoded.tokens), [list(unit) for unit in row.units]] for row in rows]
    weights = tensors_digest(model.state_dict())
    key = digest_of([REVISION, weights, model.config.to_json_string(), serving, given, torch.__version__])
    names = [f"{key}-{layer}" for layer in range(block_count(model) + 1)]
    kept = [store.read(name) for name in names]
    found = [entry["states"] for entry in kept if entry is not None]
    if len(found) < len(names):
        found = _computed(model, rows)
        for name, states in zip(names, found, strict=True):
            store.write(name, {"states": states})
    return found


def _computed(model: PreTrainedModel, rows: Sequence[UnitRow]) -> list[Tensor]:
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row.units))
    layers: list[Tensor] = []
    with torch.no_grad(), evaluating(model):
        for batch in _batches(rows):
            packed = pack([rows[place].encoded for place in batch])
            states = packed_states(model, packed, layers=True).layers
            if not layers:
                layers = [torch.zeros(starts[-1], states[0].shape[-1]) for _ in states]
            tokens, units, sizes = _members(rows, batch, packed.offsets, starts)
            for whole, layer in zip(layers, states, strict=True):
                weights = 1 / sizes.to(layer.device, torch.float32)
                parts = layer[tokens.to(layer.device)].float() * weights[:, None]
                whole.index_add_(0, units, parts.cpu())
    return layers


def _members(
    rows: Sequence[UnitRow], batch: Sequence[int], offsets: Sequence[int], starts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each (token, unit) pair of a batch: the token's place in it, the unit's among all, and the unit's size."""
    tokens, units, sizes = [], [], []
    for row, offset in zip(batch, offsets, strict=False):
        for number, unit in enumerate(rows[row].units):
            tokens += [offset + place for place in unit]
            units += [starts[row] + number] * len(unit)
            sizes += [len(unit)] * len(unit)
    return torch.tensor(tokens, dtype=torch.long), torch.tensor(units, dtype=torch.long), torch.tensor(sizes)


def _batches(rows: Sequence[UnitRow]) -> Iterator[list[int]]:
    """Places of rows of similar length."""
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].encoded.tokens), place))
    batch: list[int] = []
    size = 0
    for place in order:
        length = len(rows[place].encoded.tokens)
        if batch and (size + length > BATCH_TOKENS or len(batch) == BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += length
    if batch:
        yield batch
