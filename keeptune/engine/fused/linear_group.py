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

Frozen weights are used where they are, one product each: side by side in one matrix they were no faster. Where the
kernels of a processor multiply and the pass trains, a map and its updates are one sum, rounded once, and so is the
gradient through all of them.

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
from keeptune.engine.kernel_contract import MOST_SUMMED, ProcessorKernels
from keeptune.engine.kernels import multiplying
from keeptune.engine.learning import learns


class LinearMap(NamedTuple):
    """A frozen linear map with the updates that serve every token."""

    weight: Tensor
    bias: Tensor | None
    updates: Sequence[Factors] = ()


def linear_group(prologue: Prologue, inputs: Sequence[Tensor], maps: Sequence[LinearMap]) -> tuple[Tensor, ...]:
    """y_i of each map; gradients reach the inputs and every A and B."""
    factors = [factor for one in maps for update in one.updates for factor in (update.A, update.B)]
    plan = _Plan(prologue, len(inputs), tuple(maps), learns())
    outputs: tuple[Tensor, ...] = _Group.apply(plan, *inputs, *factors)  # type: ignore[no-untyped-call]
    return outputs


@dataclass(frozen=True)
class _Plan:
    """What does not change between the forward and the backward pass."""

    prologue: Prologue
    inputs: int
    maps: tuple[LinearMap, ...]
    learns: bool

    @property
    def updates(self) -> list[tuple[int, Factors]]:
        """(number of its map, update), in order."""
        return [(number, update) for number, one in enumerate(self.maps) for update in one.updates]

    @property
    def drops(self) -> bool:
        """Whether any update drops a part of its input."""
        return any(update.dropout for _, update in self.updates)

    def multiplying(self, *tensors: Tensor) -> ProcessorKernels | None:
        """The kernels that multiply these and the weights, if there are any."""
        most = max(len(self.maps), *(len(one.updates) for one in self.maps))
        return multiplying(*tensors, *(one.weight for one in self.maps)) if self.learns and most < MOST_SUMMED else None

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
        As, Bs = ([factor.to(x.dtype) for factor in half] for half in (factors[0::2], factors[1::2]))
        ctx.plan, ctx.random = plan, _random_state(x.device) if plan.drops else None
        own = plan.multiplying(x)
        inner = _inner(plan, x, As, own)
        outputs = _outputs(plan, x, Bs, inner) if own is None else _outputs_at_once(plan, x, Bs, inner, own)
        ctx.save_for_backward(*inputs, *As, *Bs, *inner)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        saved, count = ctx.saved_tensors, len(plan.updates)
        inputs, rest = saved[: plan.inputs], saved[plan.inputs :]
        As, Bs, inner = rest[:count], rest[count : 2 * count], rest[2 * count :]
        own = plan.multiplying(*gradients)
        through = any(ctx.needs_input_grad[1 : 1 + plan.inputs])
        learns = any(ctx.needs_input_grad[1 + plan.inputs :])
        slopes = [
            _product(gradients[n], B, own).mul_(update.scale) for (n, update), B in zip(plan.updates, Bs, strict=True)
        ]
        masks = None if ctx.random is None else plan.masks_again(ctx.random, gradients[0])
        x: Tensor | None = None
        d_inputs: tuple[Tensor | None, ...] = (None,) * plan.inputs
        if through:
            dx = _through(plan, gradients, slopes, As, masks, own)
            x, d_inputs = plan.prologue.back(dx, *inputs, again=learns)
        elif learns:
            x = value_again(plan.prologue, *inputs)
        d_factors: list[Tensor | None] = [None] * (2 * count)
        if x is not None and learns:
            d_factors[0::2] = _slopes_of_A(slopes, x, masks, own)
            d_factors[1::2] = [
                _product(u.T, gradients[n], own).mul_(update.scale).T
                for (n, update), u in zip(plan.updates, inner, strict=True)
            ]
        return None, *d_inputs, *d_factors


def _product(a: Tensor, b: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The product a b of a narrow matrix and a wide one."""
    return a @ b if own is None else own.summed((a, b))


def _inner(plan: _Plan, x: Tensor, As: Sequence[Tensor], own: ProcessorKernels | None) -> Sequence[Tensor]:
    """A x of each update, (T, r)."""
    if plan.drops:
        return [_product(_masked(x, mask), A.T, own) for mask, A in zip(plan.masks(x), As, strict=True)]
    return _apart(_product(x, _stacked(As).T, own), [len(A) for A in As], dim=1) if As else []


def _outputs(plan: _Plan, x: Tensor, Bs: Sequence[Tensor], inner: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """y_i of each map, (T, out_i)."""
    outputs = tuple(functional.linear(x, one.weight, one.bias) for one in plan.maps)
    for (number, update), B, u in zip(plan.updates, Bs, inner, strict=True):
        outputs[number].addmm_(u, B.T, alpha=update.scale)
    return outputs


def _outputs_at_once(
    plan: _Plan, x: Tensor, Bs: Sequence[Tensor], inner: Sequence[Tensor], own: ProcessorKernels
) -> tuple[Tensor, ...]:
    """The same by kernels, which multiply a map and its updates in one go."""
    pairs = [[(x, one.weight.T)] for one in plan.maps]
    for (number, update), B, u in zip(plan.updates, Bs, inner, strict=True):
        pairs[number].append((u * update.scale, B.T))
    return tuple(own.summed(*some, bias=one.bias) for some, one in zip(pairs, plan.maps, strict=True))


def _through(
    plan: _Plan,
    gradients: Sequence[Tensor],
    slopes: Sequence[Tensor],
    As: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    own: ProcessorKernels | None,
) -> Tensor:
    """The gradient in x, sum_i g_i W_i + sum_j v_j A_j, (T, in), from the slopes v = s g B, (T, r)."""
    pairs = [(gradient, one.weight) for one, gradient in zip(plan.maps, gradients, strict=True)]
    if slopes and masks is None:
        pairs.append((_stacked(slopes, 1), _stacked(As)))
    if own is not None:
        dx = own.summed(*pairs)
    else:
        dx = pairs[0][0] @ pairs[0][1]
        for a, b in pairs[1:]:
            dx.addmm_(a, b)
    for mask, v, A in zip(masks or (), slopes, As, strict=masks is not None):
        dx.add_(_masked(_product(v, A, own), mask))
    return dx


def _slopes_of_A(
    slopes: Sequence[Tensor], x: Tensor, masks: Sequence[Tensor | None] | None, own: ProcessorKernels | None
) -> Sequence[Tensor]:
    """The gradient of each A, v' x."""
    if masks is not None:
        return [_product(v.T, _masked(x, mask), own) for mask, v in zip(masks, slopes, strict=True)]
    return _apart(_product(_stacked(slopes, 1).T, x, own), [v.shape[1] for v in slopes])


def _stacked(some: Sequence[Tensor], dim: int = 0) -> Tensor:
    """All of them, one behind the other; one alone as it is."""
    return some[0] if len(some) == 1 else torch.cat(list(some), dim)


def _apart(x: Tensor, sizes: list[int], dim: int = 0) -> Sequence[Tensor]:
    """The parts that `_stacked` put together."""
    return [x] if len(sizes) == 1 else x.split_with_sizes(sizes, dim)


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
