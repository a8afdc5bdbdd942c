"""Next-token losses whose tokens weigh differently: the weights are looked up or computed, never learned.

A weighted loss divides by the sum of its weights, so that their mean over the global batch is 1 by construction: it
neither shrinks the step nor changes what gradient clipping does, and methods can be compared at one learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from keeptune.engine.head import Head
    from keeptune.losses import StepView

# Takes log-probabilities [C, V], those of the targets [C] and the chunk's place; gives weights [C], zero or more.
Weigh = Callable[[Tensor, Tensor, slice], Tensor]


def weighted_next_token(
    hidden_ND: Tensor, targets_N: Tensor, head: Head, weigh: Weigh, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""sum_n w_n (-log p_n(target_n)) with w_n held constant, and sum_n w_n.

    Args:
        hidden_ND: final-norm hidden states of the rows.
        targets_N: the token that each row predicts.
        head: the model's head.
        weigh: the weights of a chunk of rows; no gradient flows through them.
        chunk: rows of logits held at a time.

    Returns:
        The differentiable sum in nats, and the sum of the weights.
    """
    from keeptune.losses._head_rows import sum_over_rows

    mass = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)

    def criterion(logits_CV: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        target_C1 = targets_N[place].unsqueeze(-1)
        log_p = torch.log_softmax(logits_CV, dim=-1)
        gold_C1 = log_p.gather(1, target_C1)
        weight_C1 = weigh(log_p, gold_C1.squeeze(-1), place).to(log_p.dtype).unsqueeze(-1)
        mass.add_(weight_C1.sum())
        d_CV = log_p.exp_()
        d_CV.scatter_(1, target_C1, torch.expm1(gold_C1))
        return -(weight_C1 * gold_C1).sum(), d_CV.mul_(weight_C1)

    return sum_over_rows(hidden_ND, head, criterion, chunk), mass


@torch.no_grad()
def token_losses(hidden_ND: Tensor, targets_N: Tensor, head: Head, *, chunk: int | None = None) -> Tensor:
    """-log p(target) of each row, in nats [N]; nothing is differentiated."""
    from keeptune.losses._head_rows import few, products, rows_at_once

    losses = hidden_ND.new_empty(len(targets_N), dtype=head.wide)
    for rows, product_CV in products(head, hidden_ND, rows_at_once(head, chunk)):
        for place, own in few(head, rows):
            logits = head.finished(product_CV[own])
            losses[place] = torch.nn.functional.cross_entropy(logits, targets_N[place], reduction="none")
    return losses


def weighted_terms(view: StepView, rows: Tensor, weigh: Weigh) -> tuple[Tensor, float]:
    """What a weighted loss returns: its sum over `rows` of the micro-batch, and the sum of its weights."""
    total, mass = weighted_next_token(view.at(rows), view.batch.targets[rows], view.head, weigh)
    return total, float(mass)


def base_losses(view: StepView, rows: Tensor) -> Tensor:
    """-log p0(target) of the base at `rows`, in nats [N]."""
    return token_losses(view.reference(rows), view.batch.targets[rows], view.reference_head)
