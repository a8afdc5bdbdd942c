"""Cross-entropy of each row by itself: for losses that do not know what a row weighs before they have seen them all.

    l_n = -log softmax(y_n)[t_n]        L = f(l_1, ..., l_N)        dL/dh_n = (dL/dl_n) (dl_n/dh_n)

The second factor needs no f, and is made in the forward pass, some rows at a time; the backward pass multiplies it with
the first, a number for each row. A head that learns gets its gradient from a second pass over the rows, when the first
factor is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from keeptune.engine.kernels import serving
from keeptune.losses._head_rows import few, judged, products, rows_at_once, through_head

if TYPE_CHECKING:
    from keeptune.engine.head import Head


def cross_entropies(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [C, 1] in nats, and their gradients [C, V] in the logits, which are overwritten."""
    target_C1 = targets_C.unsqueeze(-1)
    gold_C1 = logits_CV.gather(1, target_C1)
    largest_C1 = logits_CV.amax(dim=-1, keepdim=True)
    odds_CV = logits_CV.sub_(largest_C1).exp_()
    mass_C1 = odds_CV.sum(dim=-1, keepdim=True)
    loss_C1 = largest_C1 + mass_C1.log() - gold_C1
    return loss_C1, odds_CV.div_(mass_C1).scatter_(1, target_C1, torch.expm1(-loss_C1))


def row_losses(hidden_ND: Tensor, targets_N: Tensor, head: Head, *, chunk: int | None = None) -> Tensor:
    r"""-log softmax(head(h_n))[t_n] of each row, in nats; differentiable.

    Args:
        hidden_ND: final-norm hidden states of the rows.
        targets_N: the token that each row predicts.
        head: the model's head; it gets a gradient only if its weight requires one.
        chunk: rows of logits held at a time; unset: as many as 31 MB allow (256 MiB on a GPU).

    Returns:
        [N], float32; float64 for a float64 head.
    """
    plan = _Plan(head, targets_N, rows_at_once(head, chunk))
    losses: Tensor = _RowLosses.apply(hidden_ND, head.weight, head.bias, plan)  # type: ignore[no-untyped-call]
    return losses


class _Plan(NamedTuple):
    head: Head
    targets: Tensor
    step: int

    def judged(self, product_CV: Tensor, rows: slice) -> Tensor:
        """The losses of these rows, whose gradients take the place of their products."""
        head = self.head
        if head.scale == 1.0 and head.soft_cap is None and (kernels := serving(product_CV)) is not None:
            return kernels.next_token(product_CV, self.targets[rows], None)
        losses = product_CV.new_empty(len(product_CV), dtype=head.wide)
        for place, own in few(head, rows):
            narrow = product_CV[own]
            value_C1, d = judged(head, head.finished(narrow), [], place, self._criterion)
            losses[own] = value_C1.squeeze(-1)
            if d is not narrow:
                narrow.copy_(d)
        return losses

    def _criterion(self, logits_CV: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        return cross_entropies(logits_CV, self.targets[place])


class _RowLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, plan: _Plan) -> Tensor:
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        losses = hidden_ND.new_empty(len(hidden_ND), dtype=plan.head.wide)
        for rows, product_CV in products(plan.head, hidden_ND, plan.step):
            count = rows.stop - rows.start
            losses[rows] = plan.judged(product_CV[:count], rows)
            if d_hidden is not None:
                d_hidden[rows] = through_head(product_CV, weight_VD)[:count]
        ctx.plan, ctx.d_hidden = plan, d_hidden
        if wants_weight or wants_bias:
            ctx.save_for_backward(hidden_ND)
        return losses

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:
        """The factors are applied in the wide dtype, as those of `_head_rows`."""
        plan, d_hidden = ctx.plan, ctx.d_hidden
        ctx.d_hidden = None
        given: list[Tensor | None] = [None, None, None]
        if d_hidden is not None:
            given[0] = (d_hidden.to(d_losses.dtype) * d_losses.unsqueeze(-1)).to(d_hidden.dtype)
        wanted = [place for place in (1, 2) if ctx.needs_input_grad[place]]
        if wanted:
            from keeptune.losses.next_token import next_token

            (hidden_ND,) = ctx.saved_tensors
            learns = [(plan.head.weight, plan.head.bias)[place - 1] for place in wanted]
            with torch.enable_grad():
                total = next_token(hidden_ND.detach(), plan.targets, plan.head, d_losses, chunk=plan.step)
                for place, d in zip(wanted, torch.autograd.grad(total, learns), strict=True):
                    given[place] = d
        return (*given, None)
