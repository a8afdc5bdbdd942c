"""A loss behind the language-model head, computed some rows at a time: a full logits tensor never exists.

For rows h [N, D], head weight W [V, D], bias b [V], scale s and soft cap c

    z = s (h W^T + b)        y = c tanh(z / c)   (y = z without a cap)        loss = sum_n f_n(y_n)

the criterion gives f and df/dy; dh = s (df/dy * (1 - (y/c)^2)) W is made in the forward pass, so that the backward pass
only scales it. The head gets a gradient only if it asks for one.

Two sizes. A product with W wants many rows, C: its result, in the dtype of the head's weight, is the one tensor of its
size, for the gradient takes its place. What is done to each logit wants few, in float32 (float64 for a float64 head):
so many that they stay in the processor's cache from the first pass over them to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from keeptune.engine.even import LEAST, even_size
from keeptune.engine.kernels import multiplying

if TYPE_CHECKING:
    from keeptune.engine.head import Head

# Takes logits [C, V] (its own to overwrite), those of a second head if there is one, and the place of the rows; gives
# their sum and its gradient in the logits.
Criterion = Callable[..., tuple[Tensor, Tensor]]
# The same in one pass over a product [C, V] with the place of its rows, for heads that bend nothing: the gradient takes
# the place of the logits. Gives the sum, or None where it does not serve.
InPlace = Callable[[Tensor, slice], "Tensor | None"]
# A second head whose logits the criterion compares with: hidden states [N, D], no gradient flows there, and the head.
Beside = tuple[Tensor, "Head"]

# The C library gives blocks above 32 MiB back to the system each time, and clearing new pages costs more than the
# softmax. Up to there more rows are better: the whole head is read for each product. On a GPU a product in bfloat16
# waits for its arithmetic, and not for the head, from some 300 rows on (800 TFLOP/s over 3 TB/s): a thousand rows
# of a vocabulary of 128,000 are enough.
LOGITS_BYTES = 31_000_000
LOGITS_BYTES_GPU = 2**28
LOGITS_IN_CACHE = 2**18
LOGITS_AT_ONCE_GPU = 2**25  # 128 MiB in float32, of which a criterion holds a few


def rows_at_once(head: Head, chunk: int | None = None, *, heads: int = 1) -> int:
    """How many rows of products are held at a time, where so many heads are held."""
    weight = head.weight
    limit = LOGITS_BYTES_GPU if weight.is_cuda else LOGITS_BYTES
    fit, least = limit // (heads * len(weight) * weight.element_size()), even_size(1, weight)
    return chunk or max(1, fit // least * least or fit)  # an even size: nothing is added to it


def few(head: Head, rows: slice) -> Iterator[tuple[slice, slice]]:
    """(place among all rows, place among `rows`) of the few rows that the processor's cache holds; more on a GPU."""
    step = max(1, (LOGITS_AT_ONCE_GPU if head.weight.is_cuda else LOGITS_IN_CACHE) // len(head.weight))
    for start in range(rows.start, rows.stop, step):
        end = min(start + step, rows.stop)
        yield slice(start, end), slice(start - rows.start, end - rows.start)


def many(count: int, step: int) -> Iterator[slice]:
    """The rows of each product, `step` or a few less: the last is not much smaller than the others."""
    blocks = max(1, -(-count // step))
    step = min(step, LEAST * max(1, -(-count // (blocks * LEAST))))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def products(head: Head, hidden_ND: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
    """The rows of each product and the product, with the few rows that make it even, which are zero.

    One block serves all rows: freed and made again, it would leave holes. The next product takes its place.
    """
    block: Tensor | None = None
    for rows in many(len(hidden_ND), step):
        block = learned_product(head, hidden_ND[rows], into=block)
        block[rows.stop - rows.start :] = 0
        yield rows, block


def learned_product(head: Head, hidden_CD: Tensor, into: Tensor | None = None) -> Tensor:
    """`Head.product` where it need not have the bits of the reference forward."""
    weight, hidden = head.weight, hidden_CD.to(head.weight.dtype).contiguous()
    biases = [] if head.bias is None else [head.bias]
    if kernels := multiplying(weight, hidden, *biases):
        return kernels.summed((hidden, weight.T), onto=head.bias, into=None if into is None else into[: len(hidden)])
    return head.product(hidden_CD, into)


def through_head(slopes_CV: Tensor, weight_VD: Tensor) -> Tensor:
    """The gradient in the hidden states [C, D], from that in their products."""
    kernels = multiplying(weight_VD, slopes_CV)
    return slopes_CV @ weight_VD if kernels is None else kernels.summed((slopes_CV, weight_VD))


def log_mass(logits: Tensor, p: Tensor) -> Tensor:
    """Log sum_v exp(z_v) of each row [C, 1], from logits z [C, V] and their softmax p.

    It is z_v - log p_v of any v, and the largest p, at least 1 / V, has the smallest rounding error.
    """
    return logits.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()


def sum_over_rows(
    hidden_ND: Tensor,
    head: Head,
    criterion: Criterion,
    chunk: int | None = None,
    *,
    beside: Beside | None = None,
    in_place: InPlace | None = None,
) -> Tensor:
    """The differentiable sum of `criterion` over rows: a scalar in the wide dtype."""
    plan = _Plan(head, criterion, rows_at_once(head, chunk, heads=1 if beside is None else 2), beside, in_place)
    total: Tensor = _SumOverRows.apply(hidden_ND, head.weight, head.bias, plan)  # type: ignore[no-untyped-call]
    return total


class _Plan(NamedTuple):
    head: Head
    criterion: Criterion
    step: int
    beside: Beside | None
    in_place: InPlace | None

    def judged(self, product_CV: Tensor, rows: slice, second_CV: Tensor | None, d_bias: Tensor | None) -> Tensor:
        """The sum over these rows, whose gradient takes the place of their products; d_bias collects its own."""
        head, total = self.head, product_CV.new_zeros((), dtype=self.head.wide)
        if self.in_place is not None and d_bias is None and head.scale == 1.0 and head.soft_cap is None:
            done = self.in_place(product_CV, rows)
            if done is not None:
                return done
        for place, own in few(head, rows):
            narrow = product_CV[own]
            others = [] if self.beside is None or second_CV is None else [self.beside[1].finished(second_CV[own])]
            value, d = judged(head, head.finished(narrow), others, place, self.criterion)
            total += value
            if d_bias is not None:
                d_bias += d.sum(0)
            if d is not narrow:
                narrow.copy_(d)
        return total


class _SumOverRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        plan: _Plan,
    ) -> Tensor:
        head, beside = plan.head, plan.beside
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        d_weight = torch.zeros_like(weight_VD, dtype=head.wide) if wants_weight else None
        d_bias = torch.zeros_like(bias_V, dtype=head.wide) if bias_V is not None and wants_bias else None
        total = hidden_ND.new_zeros((), dtype=head.wide)
        second_CV: Tensor | None = None
        for rows, product_CV in products(head, hidden_ND, plan.step):
            count = rows.stop - rows.start
            second_CV = None if beside is None else learned_product(beside[1], beside[0][rows], into=second_CV)
            total += plan.judged(product_CV[:count], rows, second_CV, d_bias)
            if d_hidden is not None:
                d_hidden[rows] = through_head(product_CV, weight_VD)[:count]
            if d_weight is not None:
                d_weight += product_CV[:count].T @ hidden_ND[rows].to(weight_VD.dtype)
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


def judged(
    head: Head, logits: Tensor, others: list[Tensor], place: slice, criterion: Criterion
) -> tuple[Tensor, Tensor]:
    """What the criterion gives, and its gradient in h W^T + b."""
    bend = None if head.soft_cap is None else 1 - (logits / head.soft_cap).square_()
    value, d = criterion(logits, *others, place)
    if bend is not None:
        d = d.mul_(bend)
    return value, d if head.scale == 1.0 else d.mul_(head.scale)
