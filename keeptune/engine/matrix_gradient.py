"""Attention for bfloat16 on a processor: SDPA forward, plain matrix products backward.

The gradient kernel of SDPA is slow there on short rows; matrix products use the processor's bfloat16 units. The
forward pass is SDPA's own, so outputs are the same with and without gradients.

Shapes: N rows, H heads, L tokens, Lk keys (more than L behind a prefix), K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Longer rows are few, and for them the kernel that never holds the L x L weights is the faster one.
LONGEST = 256


def worthwhile(query: Tensor, dropout: float) -> bool:
    """Whether this form is the faster one."""
    on_processor = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return on_processor and query.requires_grad and dropout == 0.0 and query.shape[2] <= LONGEST


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(scale q k) v, (N, H, L, K), over the True places of `mask` (..., L, Lk), or causal without one."""
    output: Tensor = _Attend.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return output


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = query.shape[-1] ** -0.5 if scale is None else scale
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """P = softmax(S), O = P v: dv = P' dO, dP = dO v', dS = P (dP - rowsum(P dP)), dq = s dS k, dk = s dS' q."""
        query, key, value, mask = ctx.saved_tensors
        length, low = query.shape[2], query.dtype
        high = torch.promote_types(low, torch.float32)
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril() if mask is None else mask
        scores = (query @ key.transpose(2, 3)).to(high).mul_(ctx.scale).masked_fill_(~seen, -torch.inf)
        weights = scores.softmax(-1)
        slopes = (gradient @ value.transpose(2, 3)).to(high)
        slopes = weights * (slopes - (weights * slopes).sum(-1, keepdim=True))
        slopes = slopes.mul_(ctx.scale).to(low)
        return slopes @ key, slopes.transpose(2, 3) @ query, weights.to(low).transpose(2, 3) @ gradient, None, None
