"""Fingerprint: tells one base model from another of the same shape."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

SAMPLES = 64
ADAPTERS = "keeptune."


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
