"""Fingerprints: tell one base from another of the same shape, and one tokenizer or template from another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

SAMPLES = 64
ADAPTERS = "keeptune."
PROBE = "Ａ naïve  Test: 12345 + 6.7e8?\n\tﬁn, 東京 🙂 <s> don't"


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over name, shape and 64 evenly spaced values of every parameter of the base.

    Values are compared in bfloat16, so the same weights loaded in float32, float16 or bfloat16 agree. Adapters attached
    by keeptune are not part of the base; a weight that is shared counts once.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if name.startswith(ADAPTERS):
            continue
        digest.update(json.dumps([name, list(parameter.shape)]).encode())
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), dtype=torch.float64).round().long()
        values = flat[places.to(flat.device)].to("cpu", torch.bfloat16)
        digest.update(values.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def shape_digest(model: nn.Module) -> str:
    """SHA-256 over names and shapes of the base's parameters."""
    shapes = [[name, list(p.shape)] for name, p in sorted(model.named_parameters()) if not name.startswith(ADAPTERS)]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str | None:
    """SHA-256 over the vocabulary, the special tokens, and what a probing text becomes; None without a tokenizer.

    The text stands for the rules (spaces, digits, case, scripts), which tokenizers of one vocabulary may differ in.
    """
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        return None
    special = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    parts = [sorted(tokenizer.get_vocab().items()), special, tokenizer.encode(PROBE)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def template_digest(tokenizer: Any) -> str | None:
    """SHA-256 of the chat template; None without one."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(json.dumps(template).encode()).hexdigest()
