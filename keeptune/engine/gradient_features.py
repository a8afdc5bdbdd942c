"""Gradient features: each row's own gradient, projected at random to a few numbers per linear map, many rows at once.

For a linear map y = W x with inputs x_t and slopes d_t = dL/dy_t, a row's gradient is G = sum_t d_t x_t'. Its feature

    F = R_out' G R_in = sum_t (R_out' d_t) (R_in' x_t)'          R entries +-1 / sqrt(k), [d_out, k] and [d_in, k]

is the gradient of a k x k core C in W + R_out C R_in' (as in LoGra, Choe et al. 2024, arXiv:2405.13954), so G itself
is never made, and rows of a packed batch stay apart. E <F_i, F_j> = <G_i, G_j> over the draw of R.

Shapes: N rows, T tokens of a batch, k width, L linear maps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from keeptune.data.encode import Encoded
from keeptune.data.packing import filled
from keeptune.engine.batch import IGNORED, PackedBatch, pack
from keeptune.engine.generation import evaluating
from keeptune.engine.head import head_of
from keeptune.engine.named_generator import named_generator
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import off
from keeptune.models.anatomy import anatomy_of

REVISION = 1
BATCH_TOKENS = 2048


def gradient_features(model: PreTrainedModel, rows: Sequence[Encoded], *, width: int = 16, seed: int = 0) -> Tensor:
    """[N, L k^2] in float32 on the CPU: features of the gradient of each row's mean loss over its learned tokens.

    A row without learned tokens has zeros. The model's adapters are off; its weights are left as they are.

    Args:
        model: a decoder of a known family.
        rows: N encoded examples.
        width: k.
        seed: of the projections; features of different seeds cannot be compared.
    """
    paths = anatomy_of(model).linear_paths()
    features = torch.zeros(len(rows), len(paths) * width**2)
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].tokens), place))
    with evaluating(model), off(model), _frozen(model), torch.enable_grad():
        for chosen in filled(((place, len(rows[place].tokens)) for place in order), BATCH_TOKENS):
            batch = pack([rows[place] for place in chosen])
            if not batch.learned:
                continue
            found: dict[str, Tensor] = {}
            with _watched(model, paths, batch, width, seed, found):
                hidden = packed_hidden(model, batch)
                torch.autograd.backward(_loss(model, hidden, batch))
            features[chosen] = torch.cat([found[path] for path in paths], dim=1).cpu()
    return features


def _loss(model: PreTrainedModel, hidden: Tensor, batch: PackedBatch) -> Tensor:
    """The sum over rows of the mean loss of a row: its gradient holds each row's own, side by side."""
    places = (batch.targets != IGNORED).nonzero()[:, 0]
    owners = batch.segment_of()[places]
    counts = torch.bincount(owners, minlength=len(batch.ids))
    logits = head_of(model).logits(hidden[places.to(hidden.device)])
    losses = functional.cross_entropy(logits, batch.targets[places].to(logits.device), reduction="none")
    return (losses / counts[owners].to(losses)).sum()


@contextmanager
def _watched(
    model: PreTrainedModel, paths: Sequence[str], batch: PackedBatch, width: int, seed: int, found: dict[str, Tensor]
) -> Iterator[None]:
    """Inside, a backward pass puts the features [S, k^2] of every linear map into `found`."""
    handles = [model.get_input_embeddings().register_forward_hook(_needs_gradient)]
    for path in paths:
        hook = _watching(path, batch, width, seed, found)
        handles.append(model.get_submodule(path).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _needs_gradient(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def _watching(
    path: str, batch: PackedBatch, width: int, seed: int, found: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    spans = list(itertools.pairwise(batch.offsets))

    def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        generator = named_generator(seed, path)
        given = args[0].detach().flatten(0, -2).float()
        inner = given @ _signs(given.shape[-1], width, generator).to(given.device)
        outer = _signs(output.shape[-1], width, generator).to(given.device)

        def backward(slope: Tensor) -> None:
            slopes = slope.flatten(0, -2).float() @ outer
            cores = [(slopes[start:end].T @ inner[start:end]).flatten() for start, end in spans]
            found[path] = torch.stack(cores)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _signs(size: int, width: int, generator: torch.Generator) -> Tensor:
    """[size, k] of +-1 / sqrt(k)."""
    signs = torch.randint(0, 2, (size, width), generator=generator) * 2.0 - 1
    return signs / math.sqrt(width)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Inside, no weight asks for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
