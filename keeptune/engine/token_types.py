"""Token types: which text of a row a token belongs to, for encoders that were pretrained on pairs (Devlin et al. 2019).

    [CLS] a a a [SEP] b b [SEP]
      0   0 0 0   0   1 1   1

None for an encoder whose configuration knows one type, or whose tokenizer gives both texts the same, as RoBERTa's does,
or has no separator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.data.text_encoder import has_types
from keeptune.models.load import Loaded


def token_types(model: PreTrainedModel, tokens: Tensor, offsets: Sequence[int]) -> Tensor | None:
    """(T,) the type of each token of packed rows; None where all are 0, or the model has no others.

    A text is over with the tokenizer's separator. Types go as far as the model's last one.

    Args:
        model: an encoder that `load` made; of another one the separator is not known, and there are no types.
        tokens: (T,).
        offsets: S + 1 numbers; row s owns the tokens offsets[s] to offsets[s + 1].
    """
    loaded = getattr(model, "loaded", None)
    kinds = int(getattr(model.config, "type_vocab_size", 0) or 0)
    if kinds < 2 or not isinstance(loaded, Loaded) or not has_types(loaded.tokenizer):
        return None
    separator = loaded.tokenizer.sep_token_id
    if separator is None:
        return None
    over = (tokens == separator).long()
    before = over.cumsum(0) - over
    starts = torch.tensor(offsets[:-1], device=tokens.device)
    lengths = torch.tensor(offsets, device=tokens.device).diff()
    filled = lengths > 0
    types = before - before[starts[filled]].repeat_interleave(lengths[filled])
    return types.clamp(max=kinds - 1) if bool(types.any()) else None
