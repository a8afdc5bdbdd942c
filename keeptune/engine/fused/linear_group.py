"""Linear maps that share an input, with their low-rank updates, as one autograd function.

    x = prologue(inputs)        y_i = [h +] W_i x + b_i + sum_j s_j B_j A_j drop_j(x)

W and b are frozen and get no gradient. Nothing of the size of x is kept: the prologue's inputs are, and x is computed
again. The narrow products A x are kept, for they are smaller than anything that could replace them. Updates of all
maps share one product with their stacked A. With dropout each update has a mask of its own, drawn as
`functional.dropout` draws it and drawn again, from the same state of the generator, in the backward pass.

Ordering (RunLoRA, Cherniuk et al. 2023, arXiv:2312.03415). dA = s (g B)' x and dB = g' (s A x) cost 2 T r (in + out)
each way; through the whole matrix g' x it would be 2 T in out. The first is cheaper while r < in out / (in + out), that
is while an update is smaller than the matrix it updates, so it is the only one here. Folding s B A into W at each step
would save a third of the updates' cost, but a bfloat16 weight cannot hold what a step changes.

Frozen weights are used where they are, one product each: side by side in one matrix they were no faster. Where the
kernels of a processor multiply and the pass trains, a map, its updates and the stream that they are added to are one
sum, rounded once, and so is the gradient through all of them; the gradients of A and B are not rounded.

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
from keeptune.engine.kernels import multiplying, settle
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
    group = group_of(prologue, len(inputs), maps, learns=learns())
    given = group, carries, onto, *inputs, *group.factors
    outputs: tuple[Tensor, ...] = _Group.apply(*given)  # type: ignore[no-untyped-call]
    return outputs


def group_of(prologue: Prologue, inputs: int, maps: Sequence[LinearMap], *, learns: bool) -> Group:
    """A group whose prologue has so many inputs."""
    updates = [(number, update) for number, one in enumerate(maps) for update in one.updates]
    ranks = [update.A.shape[0] for _, update in updates]
    return Group(prologue, inputs, maps, updates, ranks, any(update.dropout for _, update in updates), learns)


class Group(NamedTuple):
    """A group of maps as two functions: the values, and the gradients.

    With R the ranks of all updates: A (R, in) stands for theirs, u = s A x and v = s g B are (T, R). So s stands in
    them alone: y = W x + B u, dx = W' g + A' v, dA = v' x, dB = g' u.

    Attributes:
        prologue: in front of the maps.
        inputs: how many it has.
        maps: that share its value.
        updates: each with the number of its map, in order.
        ranks: of each update.
        drops: whether any of them does.
        learns: the pass trains.
    """

    prologue: Prologue
    inputs: int
    maps: Sequence[LinearMap]
    updates: Sequence[tuple[int, Factors]]
    ranks: list[int]
    drops: bool
    learns: bool

    @property
    def factors(self) -> list[Tensor]:
        """A and B of each update."""
        return [factor for _, update in self.updates for factor in (update.A, update.B)]

    @property
    def summed(self) -> bool:
        """Whether values and gradients are sums that kernels make, where there are some."""
        most = max(len(self.maps), *(len(one.updates) for one in self.maps))
        return self.learns and most < MOST_SUMMED

    @property
    def multiplied(self) -> bool:
        """Whether kernels that multiply tensors of the weights' dtype can do all of it together."""
        return self.summed and not self.drops and all(one.weight.is_contiguous() for one in self.maps)

    def multiplying(self, *tensors: Tensor) -> ProcessorKernels | None:
        """The kernels that multiply these and the weights, if there are any."""
        return multiplying(*tensors, *(one.weight for one in self.maps)) if self.summed else None

    def together(self, own: ProcessorKernels | None) -> AbstractContextManager[None]:
        """Inside, kernels wait for each other where nothing else reads what they give: dropout does."""
        return nullcontext() if own is None or self.drops else own.together()

    def values(
        self, own: ProcessorKernels | None, inputs: Sequence[Tensor], factors: Sequence[Tensor], onto: Tensor | None
    ) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
        """The y_i, and what the gradients need: A, u and each B."""
        dtype = inputs[0].dtype
        A = _stacked(factors[0::2]).to(dtype) if factors else None
        Bs = [B.to(dtype) for B in factors[1::2]]
        x = self.prologue.value(*inputs)
        u = None if A is None else _inner(self, x, A, own)
        of_maps = [list[tuple[Tensor, Tensor]]() for _ in self.maps]
        for (number, _), B, part in zip(self.updates, Bs, _columns(u, self.ranks), strict=True):
            of_maps[number].append((part, B.T))
        outputs = _outputs(self, x, of_maps, onto) if own is None else _at_once(self, x, of_maps, onto, own)
        return outputs, [A, u, *Bs]

    def gradients(
        self,
        own: ProcessorKernels | None,
        inputs: Sequence[Tensor],
        kept: Sequence[Any],
        slopes: Sequence[Tensor],
        *,
        onto: Tensor | None = None,
        masks: Sequence[Tensor | None] | None = None,
        through: bool = True,
        learns: bool = True,
    ) -> tuple[Sequence[Tensor | None], list[Tensor | None]]:
        """In the inputs and in each A and B.

        Args:
            own: the kernels that multiply.
            inputs: of the prologue.
            kept: by `values`.
            slopes: in each y_i.
            onto: what the gradient in the first input is added to.
            masks: of dropout.
            through: whether the gradients in the inputs are wanted.
            learns: whether those in A and B are.
        """
        A, u, *Bs = kept
        v = _slopes(self, slopes, Bs, own) if Bs else None
        x: Tensor | None = None
        d_inputs: Sequence[Tensor | None] = (None,) * self.inputs
        if through:
            dx = _through(self, slopes, v, A, masks, own)
            x, d_inputs = self.prologue.back(dx, *inputs, again=learns, onto=onto)
        elif learns:
            x = value_again(self.prologue, *inputs)
        d_factors: list[Tensor | None] = [None] * (2 * len(Bs))
        if x is not None and v is not None and learns:
            d_factors[0::2] = _slopes_of_A(self, v, x, masks, own)
            parts = zip(self.updates, _columns(u, self.ranks), strict=True)
            d_factors[1::2] = [_slope_of_B(slopes[number], part, own) for (number, _), part in parts]
        return d_inputs, d_factors

    def masks(self, of: Tensor) -> list[Tensor | None]:
        """What each update multiplies its x (T, in) by, None where it drops nothing; `of` is any tensor of T rows."""
        shape = of.shape[0], self.maps[0].weight.shape[1]
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
    def forward(ctx: Any, group: Group, carries: bool, onto: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, factors = tensors[: group.inputs], tensors[group.inputs :]
        ctx.group, ctx.carries = group, carries
        ctx.random = _random_state(inputs[0].device) if group.drops else None
        own = group.multiplying(inputs[0])
        with group.together(own):
            outputs, kept = group.values(own, inputs, factors, onto)
        ctx.save_for_backward(*inputs, *kept)
        return (*outputs, inputs[0]) if carries else outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        group: Group = ctx.group
        saved, wants = ctx.saved_tensors, ctx.needs_input_grad
        inputs, kept = saved[: group.inputs], saved[group.inputs :]
        slopes, onto = (slopes[:-1], slopes[-1]) if ctx.carries else (slopes, None)
        own = group.multiplying(*slopes)
        masks = None if ctx.random is None else group.masks_again(ctx.random, slopes[0])
        through, learns = any(wants[3 : 3 + group.inputs]), any(wants[3 + group.inputs :])
        with group.together(own):
            d_inputs, d_factors = group.gradients(
                own, inputs, kept, slopes, onto=onto, masks=masks, through=through, learns=learns
            )
        return None, None, slopes[0] if wants[2] else None, *d_inputs, *d_factors


def _product(
    a: Tensor, b: Tensor, own: ProcessorKernels | None, scale: float = 1.0, into: Tensor | None = None
) -> Tensor:
    """The product s a b of a narrow matrix and a wide one; only kernels put it where it is wanted."""
    if own is not None:
        return own.summed((a, b), into=into, scale=scale)
    return a @ b if scale == 1.0 else (a @ b).mul_(scale)


def _inner(group: Group, x: Tensor, A: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The products u = s A x."""
    scales = [update.scale for _, update in group.updates]
    if not group.drops and min(scales) == max(scales):
        return _product(x, A.T, own, scales[0])
    masks = group.masks(x) if group.drops else [None] * len(scales)
    parts = zip(masks, A.split_with_sizes(group.ranks), scales, strict=True)
    found = [_product(_masked(x, mask), part.T, own, scale) for mask, part, scale in parts]
    settle()
    return _stacked(found, 1)


def _outputs(
    group: Group, x: Tensor, of_maps: Sequence[Sequence[tuple[Tensor, Tensor]]], onto: Tensor | None
) -> tuple[Tensor, ...]:
    """y_i of each map, (T, out_i), given u and B' of its updates."""
    outputs = tuple(functional.linear(x, one.weight, one.bias) for one in group.maps)
    for output, pairs in zip(outputs, of_maps, strict=True):
        for u, B in pairs:
            output.addmm_(u, B)
    if onto is not None:
        outputs[0].add_(onto)
    return outputs


def _at_once(
    group: Group,
    x: Tensor,
    of_maps: Sequence[Sequence[tuple[Tensor, Tensor]]],
    onto: Tensor | None,
    own: ProcessorKernels,
) -> tuple[Tensor, ...]:
    """The same by kernels, which multiply a map and its updates, and add what there is to it, in one go."""
    begins = [one.bias for one in group.maps]
    if onto is not None and (begins[0] is not None or not onto.is_contiguous()):
        settle()
        onto = (onto if begins[0] is None else onto + begins[0]).contiguous()
    begins[0] = begins[0] if onto is None else onto
    parts = zip(group.maps, of_maps, begins, strict=True)
    return tuple(own.summed((x, one.weight.T), *pairs, onto=begin) for one, pairs, begin in parts)


def _slopes(group: Group, slopes: Sequence[Tensor], Bs: Sequence[Tensor], own: ProcessorKernels | None) -> Tensor:
    """The products v = s g B."""
    if own is None:
        parts = zip(group.updates, Bs, strict=True)
        return _stacked([_product(slopes[number], B, own, update.scale) for (number, update), B in parts], 1)
    v = slopes[0].new_empty(slopes[0].shape[0], sum(group.ranks))
    for (number, update), B, into in zip(group.updates, Bs, _columns(v, group.ranks), strict=True):
        _product(slopes[number], B, own, update.scale, into)
    return v


def _through(
    group: Group,
    gradients: Sequence[Tensor],
    v: Tensor | None,
    A: Tensor | None,
    masks: Sequence[Tensor | None] | None,
    own: ProcessorKernels | None,
) -> Tensor:
    """The gradient in x, sum_i g_i W_i + v A, (T, in)."""
    pairs = [(gradient, one.weight) for one, gradient in zip(group.maps, gradients, strict=True)]
    if v is not None and A is not None and masks is None:
        pairs.append((v, A))
    if own is not None:
        dx = own.summed(*pairs)
    else:
        dx = pairs[0][0] @ pairs[0][1]
        for a, b in pairs[1:]:
            dx.addmm_(a, b)
    if v is not None and A is not None and masks is not None:
        for mask, slope, part in zip(masks, _columns(v, group.ranks), A.split_with_sizes(group.ranks), strict=True):
            dx.add_(_masked(_product(slope, part, own), mask))
    return dx


def _slopes_of_A(
    group: Group, v: Tensor, x: Tensor, masks: Sequence[Tensor | None] | None, own: ProcessorKernels | None
) -> Sequence[Tensor]:
    """The gradient of each A, v' x, (r, in)."""
    if masks is None:
        slopes = _slope_of_A(v, x, own)
        return [slopes] if len(group.ranks) == 1 else slopes.split_with_sizes(group.ranks)
    parts = zip(masks, _columns(v, group.ranks), strict=True)
    return [_slope_of_A(slope, _masked(x, mask), own) for mask, slope in parts]


def _slope_of_A(v: Tensor, x: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The product v' x; in float32 from kernels."""
    return v.T @ x if own is None else own.summed((v.T, x), into=_wide(v.shape[1], x.shape[1]))


def _slope_of_B(slope: Tensor, u: Tensor, own: ProcessorKernels | None) -> Tensor:
    """The product g' u, (out, r); in float32 from kernels."""
    if own is None:
        return (u.T @ slope).T
    found = _wide(slope.shape[1], u.shape[1])
    own.summed((u.T, slope), into=found.T)
    return found


def _wide(rows: int, columns: int) -> Tensor:
    """Room for a gradient that is not rounded."""
    return torch.empty(rows, columns, dtype=torch.float32)


def _stacked(some: Sequence[Tensor], dim: int = 0) -> Tensor:
    """All of them, one behind the other; one alone as it is."""
    return some[0] if len(some) == 1 else torch.cat(list(some), dim)


def _columns(x: Tensor | None, ranks: list[int]) -> Sequence[Tensor]:
    """What is each update's of (T, R)."""
    if x is None:
        return []
    return [x] if len(ranks) == 1 else x.split_with_sizes(ranks, 1)


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
