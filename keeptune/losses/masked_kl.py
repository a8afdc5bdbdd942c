"""Target-masked KL to the base: the gold token is free to move, everything else keeps its proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.head import Head


def masked_kl(
    hidden_ND: Tensor, base_ND: Tensor, targets_N: Tensor, head: Head, base_head: Head, *, chunk: int | None = None
) -> Tensor:
    r"""Sum over rows of KL(q0 || q), where q and q0 are p and p0 without the target, renormalised.

    q_v = p_v / (1 - p_y) for v != y. The gradient in the logits is q - q0, and 0 at the target.

    Args:
        hidden_ND: hidden states of the model.
        base_ND: of the base for the same tokens; no gradient flows there.
        targets_N: the token y of each row.
        head: head of the model.
        base_head: head of the base.
        chunk: rows of logits held at a time (of each of the two heads).

    Returns:
        A scalar in nats.
    """
    import torch

    from keeptune.losses._head_rows import sum_over_rows

    base_ND = base_ND.detach()

    def criterion(logits_CV: Tensor, base_CV: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        target_C1 = targets_N[place].unsqueeze(-1)
        without = (logits.scatter_(1, target_C1, -torch.inf) for logits in (logits_CV, base_CV))
        log_q, log_q0 = (torch.log_softmax(logits, dim=-1) for logits in without)
        q0 = log_q0.exp()
        log_ratio = (log_q0 - log_q).scatter_(1, target_C1, 0.0)
        return (q0 * log_ratio).sum(), log_q.exp_().sub_(q0)

    return sum_over_rows(hidden_ND, head, criterion, chunk, beside=(base_ND, base_head))


class MaskedKL(Loss):
    """KL(base || model) over every token but the gold one, on supervised positions; it does not oppose the task.

    arXiv:2605.29498. Use it on the task itself, beside `next_token`: no replay is needed.
    """

    needs_reference: ClassVar[bool] = True

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over `rows`, and their number."""
        rows = self.rows(view.batch)
        targets = view.batch.targets[rows]
        return masked_kl(view.at(rows), view.reference(rows), targets, view.head, view.reference_head), len(rows)
