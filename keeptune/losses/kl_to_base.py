"""KL divergence from the base model's next-token distribution: what keeps the adapted model near the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.head import Head

Direction = Literal["forward", "reverse"]


def kl_to_base(
    hidden_TD: Tensor,
    base_hidden_TD: Tensor,
    rows: Tensor | None,
    head: Head,
    base_head: Head,
    *,
    direction: Direction = "forward",
    chunk: int | None = None,
) -> Tensor:
    r"""Sum over `rows` of a divergence between p0 (base) and p (model); both heads are computed chunk by chunk.

    forward: KL(p0 || p) = sum_v p0_v (log p0_v - log p_v), gradient in the logits p - p0.
    reverse: KL(p || p0) = sum_v p_v (log p_v - log p0_v), gradient p_v (log p_v - log p0_v - KL).

    It is added to the loss with a positive weight: it is 0 for the base and positive otherwise.

    Args:
        hidden_TD: hidden states of the model.
        base_hidden_TD: hidden states of the base for the same tokens; no gradient flows there.
        rows: positions [N] to run over; unset: all.
        head: head of the model.
        base_head: head of the base.
        direction: which distribution the expectation is under.
        chunk: rows of logits held at a time (of each of the two heads).

    Returns:
        A scalar in nats; divide by the number of rows for the mean.
    """
    import torch

    from keeptune.losses._head_rows import log_mass, sum_over_rows

    hidden_ND = hidden_TD if rows is None else hidden_TD[rows]
    base_ND = (base_hidden_TD if rows is None else base_hidden_TD[rows]).detach()

    def criterion(logits_CV: Tensor, base_CV: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        p, p0 = (torch.softmax(logits, dim=-1) for logits in (logits_CV, base_CV))
        shift_C1 = log_mass(logits_CV, p) - log_mass(base_CV, p0)
        log_ratio = logits_CV.sub_(base_CV).sub_(shift_C1)
        if direction == "forward":
            return -(p0 * log_ratio).sum(), p.sub_(p0)
        kl_C1 = (p * log_ratio).sum(-1, keepdim=True)
        return kl_C1.sum(), p.mul_(log_ratio.sub_(kl_C1))

    return sum_over_rows(hidden_ND, head, criterion, chunk, beside=(base_ND, base_head))


class KLToBase(Loss):
    """KL to the base on supervised positions; `forward` = KL(base || model), `reverse` = KL(model || base)."""

    needs_reference: ClassVar[bool] = True

    direction: Direction = Field("forward", description="forward: KL(base || model); reverse: KL(model || base)")

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over `rows`, and their number."""
        rows = self.rows(view.batch)
        base_ND = view.reference(rows)
        heads = view.head, view.reference_head
        return kl_to_base(view.at(rows), base_ND, None, *heads, direction=self.direction), len(rows)
