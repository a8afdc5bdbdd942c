"""Linear maps that share an input, with their low-rank updates, as one autograd function.

    x = prologue(inputs)        y_i = W_i x + b_i + sum_j s_j B_j A_j drop_j(x)

W and b are frozen and get no gradient. Nothing of the size of x is kept: the prologue's inputs are, and x is computed
again. The narrow products A x are kept, for they are smaller than anything that could replace them. Updates of all
maps share one product with their stacked A. With dropout each update has a mask of its own, drawn as
`functional.dropout` draws it and drawn again, from the same state of the generator, in the backward pass.

Ordering (RunLoRA, Cherniuk et al. 2023, arXiv:2312.03415). dA = s (g B)' x and dB = s g' (A x) cost 2 T r (in + out)
each way; through the whole matrix g' x it would be 2 T in out. The first is cheaper while r < in out / (in + out), that
is while an update is smaller than the matrix it updates, so it is the only one here. Folding s B A into W at each step
would save a third of the updates' cost, but a bfloat16 weight cannot hold what a step changes.

Frozen weights are used where they are, one product each: side by side in one matrix they were no faster.

Shapes: x (T, in), y_i (T, out_i), A (r, in), B (out_i, r).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from keeptune.engine.deltas import Factors
from keeptune.engine.fused.prologue import Prologue, value_again


class LinearMap(NamedTuple):
    """A frozen linear map with the updates that serve every token."""

    weight: Tensor
    bias: Tensor | None
    updates: Sequence[Factors] = ()


def linear_group(prologue: Prologue, inputs: Sequence[Tensor], maps: Sequence[LinearMap]) -> tuple[Tensor, ...]:
    """y_i of each map; gradients reach the inputs and every A and B."""
    factors = [factor for one in maps for update in one.updates for factor in (update.A, update.B)]
    plan = _Plan(prologue, len(inputs), tuple(maps))
    outputs: tuple[Tensor, ...] = _Group.apply(plan, *inputs, *factors)  # type: ignore[no-untyped-call]
    return outputs


@dataclass(frozen=True)
class _Plan:
    """What does not change between the forward and the backward pass."""

    prologue: Prologue
    inputs: int
    maps: tuple[LinearMap, ...]

    @property
    def updates(self) -> list[tuple[int, Factors]]:
        """(number of its map, update), in order."""
        return [(number, update) for number, one in enumerate(self.maps) for update in one.updates]

    @property
    def drops(self) -> bool:
        """Whether any update drops a part of its input."""
        return any(update.dropout for _, update in self.updates)

    def masks(self, of: Tensor) -> list[Tensor | None]:
        """What each update multiplies its x (T, in) by, None where it drops nothing; `of` is any tensor of T rows."""
        shape = len(of), self.maps[0].weight.shape[1]
        return [
            functional.dropout(of.new_ones(shape), update.dropout) if update.dropout else None
            for _, update in self.updates
        ]

    def masks_again(self, random: Tensor, of: Tensor) -> list[Tensor | None]:
        """The masks that were drawn at this state of the generator."""
        with _random_again(random, of.device):
            return self.masks(of)


class _Group(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, factors = tensors[: plan.inputs], tensors[plan.inputs :]
        x = plan.prologue.value(*inputs)
        outputs = tuple(functional.linear(x, one.weight, one.bias) for one in plan.maps)
        As, Bs = ([factor.to(x.dtype) for factor in half] for half in (factors[0::2], factors[1::2]))
        ctx.plan, ctx.random = plan, _random_state(x.device) if plan.drops else None
        inner = _inner(plan, x, As)
        for (number, update), B, u in zip(plan.updates, Bs, inner, strict=True):
            outputs[number].addmm_(u, B.T, alpha=update.scale)
        ctx.save_for_backward(*inputs, *As, *Bs, *inner)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        saved, count = ctx.saved_tensors, len(plan.updates)
        inputs, rest = saved[: plan.inputs], saved[plan.inputs :]
        As, Bs, inner = rest[:count], rest[count : 2 * count], rest[2 * count :]
        dx = _through_weights(plan, gradients) if any(ctx.needs_input_grad[1 : 1 + plan.inputs]) else None
        learns = any(ctx.needs_input_grad[1 + plan.inputs :])
        slopes = [(gradients[n] @ B).mul_(update.scale) for (n, update), B in zip(plan.updates, Bs, strict=True)]
        masks = None if ctx.random is None else plan.masks_again(ctx.random, gradients[0])
        x: Tensor | None = None
        d_inputs: tuple[Tensor | None, ...] = (None,) * plan.inputs
        if dx is not None:
            _add_through_updates(dx, slopes, As, masks)
            x, d_inputs = plan.prologue.back(dx, *inputs, again=learns)
        elif learns:
            x = value_again(plan.prologue, *inputs)
        d_factors: list[Tensor | None] = [None] * (2 * count)
        if x is not None and learns:
            d_factors[0::2] = _slopes_of_A(slopes, x, masks)
            d_factors[1::2] = [
                (u.T @ gradients[n]).mul_(update.scale).T for (n, update), u in zip(plan.updates, inner, strict=True)
            ]
        return None, *d_inputs, *d_factors


def _inner(plan: _Plan, x: Tensor, As: Sequence[Tensor]) -> Sequence[Tensor]:
    """A x of each update, (T, r)."""
    if plan.drops:
        return [_masked(x, mask) @ A.T for mask, A in zip(plan.masks(x), As, strict=True)]
    return torch.split(x @ torch.cat(list(As)).T, [len(A) for A in As], dim=1) if As else []


def _through_weights(plan: _Plan, gradients: Sequence[Tensor]) -> Tensor:
    """sum_i g_i W_i, (T, in)."""
    dx = gradients[0] @ plan.maps[0].weight
    for one, gradient in zip(plan.maps[1:], gradients[1:], strict=True):
        dx.addmm_(gradient, one.weight)
    return dx


def _add_through_updates(
    dx: Tensor, slopes: Sequence[Tensor], As: Sequence[Tensor], masks: Sequence[Tensor | None] | None
) -> None:
    """Adds v A of each update to dx, from its slope v = s g B, (T, r)."""
    if masks is not None:
        for mask, v, A in zip(masks, slopes, As, strict=True):
            dx.add_(_masked(v @ A, mask))
    elif slopes:
        dx.addmm_(torch.cat(list(slopes), dim=1), torch.cat(list(As)))


def _slopes_of_A(slopes: Sequence[Tensor], x: Tensor, masks: Sequence[Tensor | None] | None) -> Sequence[Tensor]:
    """The gradient of each A, v' x."""
    if masks is not None:
        return [v.T @ _masked(x, mask) for mask, v in zip(masks, slopes, strict=True)]
    return torch.split(torch.cat(list(slopes), dim=1).T @ x, [v.shape[1] for v in slopes])


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _random_state(device: torch.device) -> Tensor:
    """The state of the generator that dropout draws from."""
    state: Tensor = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return state


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def _random_again(state: Tensor, device: torch.device) -> Iterator[None]:
    """Inside, dropout falls as it did at `state`; behind it, the generator goes on where it was."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)
