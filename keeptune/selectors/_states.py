"""Hidden states of a model pooled to one vector per example, computed once and kept by content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from keeptune.core.digest import digest_of
from keeptune.core.example import Example
from keeptune.data.packing import filled
from keeptune.selectors import Context, model_of

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.data.encode import Encoded
    from keeptune.models.load import Loaded

REVISION = 1
BATCH_TOKENS = 4096
Pooling = Literal["mean", "weighted"]


def pooled_states(examples: Sequence[Example], context: Context, pooling: Pooling) -> NDArray[np.float32]:
    """[N, D] of length 1: the pooled states of each example's whole text, cut at the model's context.

    Raises:
        PlanError: there is no model, or it is neither a decoder nor an encoder (E-SELECT-MODEL).
    """
    import torch

    from keeptune.models.tensor_store import tensors_digest

    loaded = model_of(context, ("decoder", "encoder"))
    rows = whole_rows(examples, loaded)

    def make() -> dict[str, Tensor]:
        return {"vectors": _computed(loaded, rows, pooling)}

    if context.store is None:
        vectors = make()["vectors"]
    else:
        weights, config = tensors_digest(loaded.model.state_dict()), loaded.model.config.to_json_string()
        tokens = [list(row.tokens) for row in rows]
        key = digest_of(["pooled", REVISION, pooling, weights, config, tokens, torch.__version__])
        vectors = context.store.once(key, make)["vectors"]
    found: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).numpy()
    return found


def whole_rows(examples: Sequence[Example], loaded: Loaded) -> list[Encoded]:
    """Each example as tokens: requests and answers, as a decoder is trained on them; an encoder reads the same text."""
    from dataclasses import replace

    from keeptune.data.encode import encoder_of

    kind = loaded.anatomy.kind
    encoder = encoder_of(loaded.tokenizer, kind=kind)
    longest = context_length(loaded)
    rows = []
    for example in examples:
        said = example if kind == "decoder" or example.text is not None else _as_document(example)
        row = encoder.encode(said)
        rows.append(replace(row, tokens=row.tokens[:longest], learned=row.learned[:longest]))
    return rows


def context_length(loaded: Loaded) -> int:
    """The longest row that the model reads, in tokens."""
    config: Any = loaded.model.config
    taken = config.pad_token_id + 1 if loaded.anatomy.positions == "offset" else 0
    return int(getattr(config, "max_position_embeddings", 0) or 2048) - taken


def _as_document(example: Example) -> Example:
    return Example(example.id, text="\n".join(turn.content for turn in example.messages))


def _computed(loaded: Loaded, rows: Sequence[Encoded], pooling: Pooling) -> Tensor:
    """[N, D] in float32 on the CPU; rows are packed in order of length: the same rows make the same batches."""
    import torch

    from keeptune.engine.batch import pack
    from keeptune.engine.generation import evaluating
    from keeptune.engine.packed import packed_hidden
    from keeptune.engine.rows import off

    found: dict[int, Tensor] = {}
    with torch.no_grad(), evaluating(loaded.model), off(loaded.model):
        for places in in_batches([len(row.tokens) for row in rows], BATCH_TOKENS):
            batch = pack([rows[place] for place in places])
            hidden_TD = packed_hidden(loaded.model, batch).float()
            for place, states in zip(places, torch.split(hidden_TD, batch.lengths), strict=True):
                weights = torch.ones(len(states), device=states.device)
                if pooling == "weighted":
                    weights = torch.arange(1, len(states) + 1, device=states.device, dtype=torch.float32)
                found[place] = ((weights / weights.sum()) @ states).cpu()
    return torch.stack([found[place] for place in range(len(rows))])


def in_batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Places of rows of similar length whose tokens together stay within the limit; a longer row stands alone."""
    by_length = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    return filled(((place, lengths[place]) for place in by_length), limit)
