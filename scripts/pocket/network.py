"""A plain Llama forward for pretraining pocket: the same arithmetic as `LlamaForCausalLM`, fewer passes over memory.

Weights are kept in float32 and cast once per step; `export.py` checks the exported model against
transformers before anything is written. Shapes: B sequences, T tokens, D width, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of the network; the defaults are pocket's (5.87 million parameters)."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    feed_forward: int = 704
    context: int = 1024
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    def to_dict(self) -> dict[str, float]:
        """The sizes as plain data."""
        return asdict(self)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotary position embedding in the half-and-half layout that transformers uses."""
    half = x_BHTK.shape[-1] // 2
    turned = torch.cat((-x_BHTK[..., half:], x_BHTK[..., :half]), dim=-1)
    return x_BHTK * cos_TK + turned * sin_TK


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of N x T x K operands, written out.

    At 256 tokens two batched products with a compiled softmax between them take 0.7 of the time of
    torch's fused kernel for this processor (forward and backward together).
    """
    tokens = q.shape[1]
    scores = torch.bmm(q * q.shape[-1] ** -0.5, k.mT).float()
    place = torch.arange(tokens, device=q.device)
    weights = torch.softmax(scores.masked_fill(place[None, :] > place[:, None], float("-inf")), dim=-1)
    return torch.bmm(weights.to(q.dtype), v)


class Block(nn.Module):
    """One decoder layer: RMSNorm, causal attention, RMSNorm, SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, f = shape.width, shape.feed_forward
        self.heads, self.epsilon = shape.heads, shape.epsilon
        self.attention_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Parameter(torch.empty(3 * d, d))
        self.out = nn.Parameter(torch.empty(d, d))
        self.ffn_norm = nn.Parameter(torch.ones(d))
        self.gate_up = nn.Parameter(torch.empty(2 * f, d))
        self.down = nn.Parameter(torch.empty(d, f))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x`: B x T x D."""
        batch, tokens, width = x.shape
        dtype = x.dtype
        h = F.rms_norm(x, (width,), self.attention_norm.to(dtype), self.epsilon)
        qkv = F.linear(h, self.qkv.to(dtype)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin)
        mixed = attend(q.flatten(0, 1), k.flatten(0, 1), qkv[2].flatten(0, 1)).view(batch, self.heads, tokens, -1)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, tokens, width), self.out.to(dtype))
        h = F.rms_norm(x, (width,), self.ffn_norm.to(dtype), self.epsilon)
        gate, up = F.linear(h, self.gate_up.to(dtype)).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down.to(dtype))


class Network(nn.Module):
    """A tied-embedding Llama; `forward` returns the sum of token losses and their number."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        half = shape.width // shape.heads // 2
        frequency = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """N(0, 0.02^2) everywhere but the norms; projections back into the stream are scaled by 1/sqrt(2L)."""
        depth = (2 * self.shape.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02 * (depth if name.endswith(("out", "down")) else 1.0)
                parameter.data.normal_(0.0, scale, generator=generator)

    def hidden(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """B x T token ids to B x T x D final hidden states."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length].to(dtype), self.sin[:length].to(dtype)
        x = F.embedding(tokens, self.embedding.to(dtype))
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.rms_norm(x, (self.shape.width,), self.norm.to(dtype), self.shape.epsilon)

    def forward(self, tokens: Tensor, labels: Tensor, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
        """Next-token loss; `labels[b, t]` is the target of position t, -100 where nothing is learned."""
        logits = F.linear(self.hidden(tokens, dtype), self.embedding.to(dtype)).flatten(0, 1)
        flat = labels.flatten()
        loss = F.cross_entropy(logits.float(), flat, reduction="sum", ignore_index=-100)
        return loss, (flat != -100).sum()
