"""A loss behind the language-model head, computed some rows at a time: a full logits tensor never exists.

For rows h [N, D], head weight W [V, D], bias b [V], scale s and soft cap c

    z = s (h W^T + b)        y = c tanh(z / c)   (y = z without a cap)        loss = sum_n f_n(y_n)

the criterion gives f and df/dy of a chunk of rows; dh = s (df/dy * (1 - (y/c)^2)) W is made in the forward pass, so
that the backward pass only scales it. The head gets a gradient only if it asks for one. Products run in the dtype of
the head's weight, everything else in float32 (float64 for a float64 head).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from keeptune.engine.head import Head

# Takes logits [C, V] (its own to overwrite) and the chunk's place; gives its sum and its gradient in the logits.
Criterion = Callable[[Tensor, slice], tuple[Tensor, Tensor]]

# 24 MB in float32: the C library gives blocks above 32 MiB back to the system each time, and clearing new pages costs
# more than the softmax. Rows enough (187 of a vocabulary of 32,000, 39 of one of 152,000) for the matrix products of a
# processor; a GPU wants more.
LOGITS_AT_ONCE = 6_000_000
LOGITS_AT_ONCE_GPU = 2**25


def rows_at_once(weight_VD: Tensor, chunk: int | None) -> int:
    """How many rows of logits are held at a time."""
    limit = LOGITS_AT_ONCE_GPU if weight_VD.is_cuda else LOGITS_AT_ONCE
    return chunk or max(1, limit // weight_VD.shape[0])


def sum_over_rows(hidden_ND: Tensor, head: Head, criterion: Criterion, chunk: int | None = None) -> Tensor:
    """The differentiable sum of `criterion` over rows: a scalar in the wide dtype."""
    step = rows_at_once(head.weight, chunk)
    total: Tensor = _SumOverRows.apply(hidden_ND, head.weight, head.bias, (head, criterion, step))  # type: ignore[no-untyped-call]
    return total


def wide_logits(hidden_CD: Tensor, head: Head) -> Tensor:
    """Logits [C, V], float32 or wider."""
    logits_CV = torch.nn.functional.linear(hidden_CD.to(head.weight.dtype), head.weight, head.bias)
    logits_CV = logits_CV.to(_wide(head))
    if head.scale != 1.0:
        logits_CV = logits_CV * head.scale
    return logits_CV if head.soft_cap is None else logits_CV.div_(head.soft_cap).tanh_().mul_(head.soft_cap)


def _wide(head: Head) -> torch.dtype:
    return torch.promote_types(head.weight.dtype, torch.float32)


class _SumOverRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, rest: tuple[Head, Criterion, int]
    ) -> Tensor:
        head, criterion, step = rest
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        d_weight = torch.zeros_like(weight_VD, dtype=_wide(head)) if wants_weight else None
        d_bias = torch.zeros_like(bias_V, dtype=_wide(head)) if bias_V is not None and wants_bias else None
        total = hidden_ND.new_zeros((), dtype=_wide(head))
        for start in range(0, len(hidden_ND), step):
            place = slice(start, start + step)
            h_CD = hidden_ND[place].to(weight_VD.dtype)
            y_CV = wide_logits(h_CD, head)
            bend_CV = None if head.soft_cap is None else 1 - (y_CV / head.soft_cap).square_()
            value, d_CV = criterion(y_CV, place)
            total += value
            if bend_CV is not None:
                d_CV.mul_(bend_CV)
            if head.scale != 1.0:
                d_CV.mul_(head.scale)
            d_narrow = d_CV.to(weight_VD.dtype)
            if d_hidden is not None:
                d_hidden[place] = d_narrow @ weight_VD
            if d_weight is not None:
                d_weight += d_narrow.T @ h_CD
            if d_bias is not None:
                d_bias += d_CV.sum(0)
        ctx.gradients = [(d_hidden, hidden_ND.dtype), (d_weight, weight_VD.dtype)]
        ctx.gradients.append((d_bias, None if bias_V is None else bias_V.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        """The factor is applied in the wide dtype: rounded to bfloat16 it would bend the step size by up to 0.4%."""
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients are kept for one backward pass"
        scaled = [None if d is None else (d.to(d_total.dtype) * d_total).to(dtype) for d, dtype in gradients]
        return (*scaled, None)
