"""Settings that are one of a few words, shared by a method and the network that it trains."""

from __future__ import annotations

from typing import Literal

Kind = Literal["linear", "low_rank", "bilinear", "mlp"]
Pooling = Literal["cls", "mean", "last", "attention"]
Encoder = Literal["lstm", "mlp", "none"]
Activation = Literal["gelu", "relu", "silu"]
