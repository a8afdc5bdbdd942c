"""The tokens that prompts and prefixes start from."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import PreTrainedModel

FREQUENT = 5000
"""Lester et al. (2021) sample from this many of the commonest tokens."""
RESERVED = re.compile(r"[\[<]unused_?\d+[\]>]")
"""Places that a vocabulary keeps free: BERT's `[unused7]`, Gemma's `<unused7>`. No text has ever trained them."""


def frequent_ids(model: PreTrainedModel, count: int, generator: torch.Generator) -> list[int]:
    """`count` ids of frequent tokens, all different while there are enough.

    Frequency is read off the ids: a byte-pair vocabulary is numbered in the order of its merges, the commonest first.
    """
    special, size = untaught_ids(model), model.get_input_embeddings().weight.shape[0]
    known = [token for token in range(size) if token not in special][:FREQUENT]
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [known[i] for i in torch.randperm(len(known), generator=generator).tolist()]
    return drawn[:count]


def untaught_ids(model: PreTrainedModel) -> set[int]:
    """The ids of special and reserved tokens; without a tokenizer, of the special ones that the config names."""
    loaded: Any = getattr(model, "loaded", None)
    if loaded is not None:
        reserved = {number for token, number in loaded.tokenizer.get_vocab().items() if RESERVED.fullmatch(token)}
        return reserved | set(loaded.tokenizer.all_special_ids)
    named = [getattr(model.config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")]
    return {token for value in named for token in (value if isinstance(value, list) else [value]) if token is not None}
