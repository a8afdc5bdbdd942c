"""The same updates for everybody: A is drawn by the name of its map and B is zero, so that losses can be compared."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

PLACE = re.compile(r"layers\W(\d+)\W\w+\W(\w+_proj)\Wlora_A")


@torch.no_grad()
def same_start(named: Iterable[tuple[str, Tensor]]) -> None:
    """Fills each A, whoever names it: `model.layers.0.mlp.up_proj.lora_A.default.weight`, or with slashes."""
    filled = 0
    for name, tensor in named:
        place = PLACE.search(name)
        if place is None:
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(" ".join(place.groups()).encode()))
        bound = tensor.shape[1] ** -0.5
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 * bound - bound)
        filled += 1
    assert filled, "nothing here is called lora_A"
