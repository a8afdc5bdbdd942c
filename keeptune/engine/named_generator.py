"""A generator for each place: what starts there starts alike, whatever else is adapted, on any device."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def named_generator(seed: int, label: str) -> torch.Generator:
    """A generator of its own for each label, so that a place starts alike whatever else is adapted, on any device."""
    import torch

    digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
