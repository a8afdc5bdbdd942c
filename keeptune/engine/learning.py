"""Whether a forward pass belongs to training, and may run kernels, or measures, and is transformers' bit by bit.

Who trains takes gradients. What a loss compares with, the reference of a KL term, takes none and still belongs to
training: before the first update it has the model's bits, and the term is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_beside: ContextVar[bool] = ContextVar("beside", default=False)


def learns() -> bool:
    """Whether the pass that is running belongs to training."""
    return torch.is_grad_enabled() or _beside.get()


@contextmanager
def beside_training() -> Iterator[None]:
    """Inside, passes without gradients are computed as training computes them."""
    token = _beside.set(True)
    try:
        yield
    finally:
        _beside.reset(token)
