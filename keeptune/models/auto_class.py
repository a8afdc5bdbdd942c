"""Which class of transformers a folder's model is loaded with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from keeptune.core.encoder_shapes import bare
from keeptune.models.families import family_of

CLASSIFIER = re.compile(r"^classifier\.")
"""What a ViT that tells labels of its own apart has beside the body: here the method `head` reads labels."""
POOLER = re.compile(r"^pooler\.")
"""A ViT's pooler, which nothing here reads; classifiers are saved without one."""
SPARE = re.compile(r"(^|\.)pooler\.|(^|\.)seq_relationship\.|position_ids$")
"""Tensors that encoders' files hold beside the model: a pooler or a next-sentence head that nothing here reads."""


def auto_class(config: Mapping[str, Any]) -> Any:
    """Causal, masked or sequence-to-sequence language model; the bare body for images and encoders without a head."""
    kind = family_of(config).kind
    if kind == "image" or (kind == "encoder" and bare(config)):
        return AutoModel
    return {
        "decoder": AutoModelForCausalLM,
        "encoder": AutoModelForMaskedLM,
        "encoder_decoder": AutoModelForSeq2SeqLM,
    }[kind]


def spare(config: Mapping[str, Any], name: str) -> bool:
    """Whether a tensor that the model does not have may stand in its files."""
    kind = family_of(config).kind
    return (kind == "encoder" and SPARE.search(name) is not None) or (kind == "image" and bool(CLASSIFIER.match(name)))


def unread(config: Mapping[str, Any], name: str) -> bool:
    """Whether a tensor of the model may be missing in its files, since nothing reads it."""
    return family_of(config).kind == "image" and POOLER.match(name) is not None
