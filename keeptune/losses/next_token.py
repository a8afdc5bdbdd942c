"""Cross-entropy of the next token on the supervised positions: the usual training loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.head import Head


def next_token(
    hidden_TD: Tensor, targets_T: Tensor, head: Head, weights: Tensor | None = None, *, chunk: int | None = None
) -> Tensor:
    r"""Sum over supervised positions of -w_t log softmax(head(h_t))[target_t], in nats.

    Args:
        hidden_TD: final-norm hidden states.
        targets_T: the token that position t must predict (already shifted); -100 = none.
        head: the model's head; it gets a gradient only if its weight requires one.
        weights: w_t per position [T]; unset: 1.
        chunk: rows of logits held at a time; unset: as many as 31 MB allow (256 MiB on a GPU).

    Returns:
        A scalar (float32; float64 for float64 hidden states); divide by the number of tokens for the mean.
    """
    import torch

    rows = torch.nonzero(targets_T != -100).squeeze(-1)
    return _sum(hidden_TD[rows], targets_T[rows], head, None if weights is None else weights[rows], chunk)


def _sum(hidden_ND: Tensor, targets_N: Tensor, head: Head, weights_N: Tensor | None, chunk: int | None) -> Tensor:
    """The same of rows that all have a target."""
    import torch

    from keeptune.engine.kernels import serving
    from keeptune.losses._head_rows import sum_over_rows
    from keeptune.losses._row_losses import cross_entropies

    def criterion(logits_CV: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        loss_C1, d_CV = cross_entropies(logits_CV, targets_N[place])
        if weights_N is None:
            return loss_C1.sum(), d_CV
        weight_C1 = weights_N[place].unsqueeze(-1).to(loss_C1.dtype)
        return (weight_C1 * loss_C1).sum(), d_CV.mul_(weight_C1)

    def in_place(product_CV: Tensor, place: slice) -> Tensor | None:
        if (kernels := serving(product_CV)) is None:
            return None
        weights_C = None if weights_N is None else weights_N[place].to(torch.float32)
        return kernels.next_token(product_CV, targets_N[place], weights_C).sum()

    return sum_over_rows(hidden_ND, head, criterion, chunk, in_place=in_place)


class NextToken(Loss):
    """-log p(target) on every supervised position; a position's weight multiplies its term, not the count."""

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over `rows`, and their number."""
        rows, batch = self.rows(view.batch), view.batch
        weights = None if batch.weights is None else batch.weights[rows]
        return _sum(view.at(rows), batch.targets[rows], view.head, weights, None), len(rows)
