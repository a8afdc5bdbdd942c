"""LoRA of the token embedding: e(t) <- e(t) + s B A[:, t],  A: rank x V,  B: D x rank.

Here A starts as zero and B as normal, since A's columns are looked up and not multiplied (Hu et al.'s code, and PEFT).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.engine.deltas import Delta
from keeptune.engine.selection import Selection


class LowRankEmbedding(Delta):
    """The change of a token's row, on the scale of what the embedding returns.

    Attributes:
        lora_embedding_A: `[rank, V]`.
        lora_embedding_B: `[D, rank]`.
    """

    def __init__(self, embedding: Any, *, rank: int, scale: float) -> None:
        super().__init__()
        rows, width = embedding.weight.shape
        self.scale = scale
        self.factor = float(getattr(embedding, "embed_scale", 1.0))  # Gemma 3 scales inside the module
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, rows))
        self.lora_embedding_B = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """Token ids `x` to `[..., D]`."""
        inner = functional.embedding(x.view(h.shape[:-1]), self.lora_embedding_A.T).to(h.dtype)
        return functional.linear(inner * (self.scale * self.factor), self.lora_embedding_B.to(h.dtype))

    def start(self, generator: torch.Generator) -> None:
        """A zero, B normal."""
        nn.init.zeros_(self.lora_embedding_A)
        nn.init.normal_(self.lora_embedding_B, generator=generator)

    def update(self) -> Tensor:
        """`s (B A)'`, `[V, D]` in float32, to be added to the embedding's weight."""
        return self.scale * (self.lora_embedding_B.float() @ self.lora_embedding_A.float()).T
