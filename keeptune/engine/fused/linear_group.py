"""Linear maps that share an input, with their low-rank updates, as one autograd function.

    x = prologue(inputs)        y_i = [h +] W_i x + b_i + sum_j s_j B_j A_j drop_j(x)

W and b are frozen and get no gradient. Nothing of the size of x is kept: the prologue's inputs are, and x is computed
again. The narrow products A x are kept, for they are smaller than anything that could replace them. Updates of all
maps share one product with their stacked A. With dropout each update has a mask of its own, drawn as
`functional.dropout` draws it and drawn again, from the same state of the generator, in the backward pass.

Ordering (RunLoRA, Cherniuk et al. 2023, arXiv:2312.03415). dA = s (g B)' x and dB = s g' (A x) cost 2 T r (in + out)
each way; through the whole matrix g' x it would be 2 T in out. The first is cheaper while r < in out / (in + out), that
is while an update is smaller than the matrix it updates, so it is the only one here. Folding s B A into W at each step
would save a third of the updates' cost, but a bfloat16 weight cannot hold what a step changes.

The scale is folded into B, so that s stands in no other product but dB. Frozen weights are used where they are, one
product each: side by side in one matrix they were no faster. Where the kernels of a processor multiply and the pass
trains, a map, its updates and the stream that they are added to are one sum, rounded once, and so is the gradient
through all of them; the gradients of A and B are not rounded.

A residual stream h that enters a group also leaves it (`carries`), and what follows reads it there. So its gradient
comes back through the group, which adds its own to it in one go.

Shapes: x (T, in), y_i (T, out_i), A (r, in), B (out_i, r).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


def linear_group(
    prologue: Prologue,
    inputs: Sequence[Tensor],
    maps: Sequence[LinearMap],
    *,
    onto: Tensor | None = None,
    carries: bool = False,
) -> tuple[Tensor, ...]:
    """y_i of each map; gradients reach the inputs and every A and B.

    Args:
        prologue: the function in front of the maps.
        inputs: of the prologue.
        maps: that share its value.
        onto: (T, out) what the value of the first map is added to.
        carries: whether the first input comes back behind the y_i.
    """
    updates = [(number, update) for number, one in enumerate(maps) for update in one.updates]
    factors = [factor for _, update in updates for factor in (update.A, update.B)]
    plan = _Plan(prologue, len(inputs), maps, updates, any(update.dropout for _, update in updates), carries, learns())
    outputs: tuple[Tensor, ...] = _Group.apply(plan, onto, *inputs, *factors)  # type: ignore[no-untyped-call]
    return outputs


class _Plan(NamedTuple):
    """What does not change between the forward and the backward pass."""

    prologue: Prologue
    inputs: int
    maps: Sequence[LinearMap]
    updates: Sequence[tuple[int, Factors]]  # each with the number of its map, in order
    drops: bool
    carries: bool
    learns: bool

    def multiplying(self, *tensors: Tensor) -> ProcessorKernels | None:
        """The kernels that multiply these and the weights, if there are any."""
        most = max(len(self.maps), *(len(one.updates) for one in self.maps))
        return multiplying(*tensors, *(one.weight for one in self.maps)) if self.learns and most < MOST_SUMMED else None

    def together(self, own: ProcessorKernels | None) -> AbstractContextManager[None]:
        """Inside, kernels wait for each other where nothing else reads what they give: dropout does."""
        return nullcontext() if own is None or self.drops else own.together()

    @property
    def ranks(self) -> list[int]:
        """Of each update."""
        return [len(update.A) for _, update in self.updates]

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
    """With R the ranks of all updates: A (R, in) stands for theirs, u = A x and v = g s B are (T, R)."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, onto: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, factors = tensors[: plan.inputs], tensors[plan.inputs :]
        ctx.plan, ctx.random = plan, _random_state(inputs[0].device) if plan.drops else None
        own, dtype = plan.multiplying(inputs[0]), inputs[0].dtype
        A = _stacked(factors[0::2]).to(dtype) if factors else None
        Bs = [_scaled(B, update.scale).to(dtype) for B, (_, update) in zip(factors[1::2], plan.updates, strict=True)]
        with plan.together(own):
            x = plan.prologue.value(*inputs)
            u = None if A is None else _inner(plan, x, A, own)
            of_maps = [list[tuple[Tensor, Tensor]]() for _ in plan.maps]
            for (number, _), B, part in zip(plan.updates, Bs, _columns(u, plan.ranks), strict=True):
                of_maps[number].append((part, B.T))
            outputs = _outputs(plan, x, of_maps, onto) if own is None else _at_once(plan, x, of_maps, onto, own)
        ctx.save_for_backward(*inputs, A, u, *Bs)
        return (*outputs, inputs[0]) if plan.carries else outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        saved = ctx.saved_tensors
        inputs, (A, u, *Bs) = saved[: plan.inputs], saved[plan.inputs :]
        gradients, carried = (gradients[:-1], gradients[-1]) if plan.carries else (gradients, None)
        through = any(ctx.needs_input_grad[2 : 2 + plan.inputs])
        learns = any(ctx.needs_input_grad[2 + plan.inputs :])
        own = plan.multiplying(*gradients)
        masks = None if ctx.random is None else plan.masks_again(ctx.random, gradients[0])
        with plan.together(own):
            v = _slopes(plan, gradients, Bs, own) if Bs else None
            dx = _through(plan, gradients, v, A, masks, own) if through else None
        x: Tensor | None = None
        d_inputs: tuple[Tensor | None, ...] = (None,) * plan.inputs
        d_factors: list[Tensor | None] = [None] * (2 * len(Bs))
        with plan.together(own):
            if dx is not None:
                x, d_inputs = plan.prologue.back(dx, *inputs, again=learns, onto=carried)
            elif learns:
                x = value_again(plan.prologue, *inputs)
            if x is not None and v is not None and learns:
                d_factors[0::2] = _slopes_of_A(plan, v, x, masks, own)
                parts = zip(plan.updates, _columns(u, plan.ranks), strict=True)
                d_factors[1::2] = [_slope_of_B(gradients[number], part, own) for (number, _), part in parts]
        for (_, update), slope in zip(plan.updates, d_factors[1::2], strict=True):
            if slope is not None and update.scale != 1.0:
                slope.mul_(update.scale)
        return None, gradients[0] if ctx.needs_input_grad[1] else None, *d_inputs, *d_factors


def _product(a: Tensor, b: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The product a b of a narrow matrix and a wide one."""
    return a @ b if own is None else own.summed((a, b))


def _inner(plan: _Plan, x: Tensor, A: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The products u = A x."""
    if not plan.drops:
        return _product(x, A.T, own)
    parts = zip(plan.masks(x), A.split(plan.ranks), strict=True)
    return torch.cat([_product(_masked(x, mask), part.T, own) for mask, part in parts], 1)


def _outputs(
    plan: _Plan, x: Tensor, of_maps: Sequence[Sequence[tuple[Tensor, Tensor]]], onto: Tensor | None
) -> tuple[Tensor, ...]:
    """y_i of each map, (T, out_i), given the factors u and s B' of its updates."""
    outputs = tuple(functional.linear(x, one.weight, one.bias) for one in plan.maps)
    for output, pairs in zip(outputs, of_maps, strict=True):
        for u, B in pairs:
            output.addmm_(u, B)
    if onto is not None:
        outputs[0].add_(onto)
    return outputs


def _at_once(
    plan: _Plan,
    x: Tensor,
    of_maps: Sequence[Sequence[tuple[Tensor, Tensor]]],
    onto: Tensor | None,
    own: ProcessorKernels,
) -> tuple[Tensor, ...]:
    """The same by kernels, which multiply a map and its updates, and add what there is to it, in one go."""
    begins = [one.bias for one in plan.maps]
    if onto is not None:
        begins[0] = onto if begins[0] is None else onto + begins[0]
    parts = zip(plan.maps, of_maps, begins, strict=True)
    return tuple(own.summed((x, one.weight.T), *pairs, onto=begin) for one, pairs, begin in parts)


def _slopes(plan: _Plan, gradients: Sequence[Tensor], Bs: Sequence[Tensor], own: ProcessorKernels | None) -> Tensor:
    """The products v = g s B."""
    pairs = [(gradients[number], B) for (number, _), B in zip(plan.updates, Bs, strict=True)]
    if own is None:
        return _stacked([g @ B for g, B in pairs], 1)
    v = gradients[0].new_empty(len(gradients[0]), sum(plan.ranks))
    for (g, B), into in zip(pairs, _columns(v, plan.ranks), strict=True):
        own.summed((g, B), into=into)
    return v


def _through(
    plan: _Plan,
    gradients: Sequence[Tensor],
    v: Tensor | None,
    A: Tensor | None,
    masks: Sequence[Tensor | None] | None,
    own: ProcessorKernels | None,
) -> Tensor:
    """The gradient in x, sum_i g_i W_i + v A, (T, in)."""
    pairs = [(gradient, one.weight) for one, gradient in zip(plan.maps, gradients, strict=True)]
    if v is not None and A is not None and masks is None:
        pairs.append((v, A))
    if own is not None:
        dx = own.summed(*pairs)
    else:
        dx = pairs[0][0] @ pairs[0][1]
        for a, b in pairs[1:]:
            dx.addmm_(a, b)
    if v is not None and A is not None and masks is not None:
        for mask, slope, part in zip(masks, _columns(v, plan.ranks), A.split(plan.ranks), strict=True):
            dx.add_(_masked(_product(slope, part, own), mask))
    return dx


def _slopes_of_A(
    plan: _Plan, v: Tensor, x: Tensor, masks: Sequence[Tensor | None] | None, own: ProcessorKernels | None
) -> Sequence[Tensor]:
    """The gradient of each A, v' x, (r, in)."""
    if masks is None:
        return _slope_of_A(v, x, own).split(plan.ranks)
    parts = zip(masks, _columns(v, plan.ranks), strict=True)
    return [_slope_of_A(slope, _masked(x, mask), own) for mask, slope in parts]


def _slope_of_A(v: Tensor, x: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The product v' x; in float32 from kernels."""
    return v.T @ x if own is None else own.summed((v.T, x), into=torch.empty(v.shape[1], x.shape[1]))


def _slope_of_B(gradient: Tensor, u: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The gradient of a B without its scale, g' u, (out, r); in float32 from kernels."""
    if own is None:
        return (u.T @ gradient).T
    slope = torch.empty(gradient.shape[1], u.shape[1])
    own.summed((u.T, gradient), into=slope.T)
    return slope


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else x * scale


def _stacked(some: Sequence[Tensor], dim: int = 0) -> Tensor:
    """All of them, one behind the other; one alone as it is."""
    return some[0] if len(some) == 1 else torch.cat(list(some), dim)


def _columns(x: Tensor | None, ranks: list[int]) -> Sequence[Tensor]:
    """What is each update's of (T, R)."""
    return [] if x is None else x.split(ranks, 1)


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
