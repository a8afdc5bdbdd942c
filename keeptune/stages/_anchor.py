"""Where the weights were before the stage, and how much each mattered: what L2-SP and EWC pull to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from keeptune.stages._masters import Masters
from keeptune.stages._random import RandomState


@dataclass(frozen=True)
class Anchor:
    """The weights that train, where they began, and their importance; three lists that run in parallel.

    Attributes:
        masters: whose weights are pulled.
        start: a copy of each from before the first step.
        importance: of each weight, with mean 1 over all of them; a scalar 1 where nothing was measured.
    """

    masters: Masters
    start: list[Tensor]
    importance: list[Tensor]

    @classmethod
    def at(cls, masters: Masters) -> Anchor:
        """At the weights as they are now, all equally important."""
        start = [master.detach().clone() for _, master in masters.named]
        return cls(masters, start, [torch.ones((), device=tensor.device) for tensor in start])

    @property
    def now(self) -> list[Tensor]:
        """The weights of this step."""
        return [master for _, master in self.masters.named]


def fisher(masters: Masters, rows: Sequence[Callable[[], float]]) -> list[Tensor]:
    """Diagonal of the Fisher information, scaled to mean 1: the mean over rows of (d log p(row) / d theta)^2.

    Args:
        masters: whose gradients are squared; without a gradient afterwards.
        rows: each puts the gradient of one row's mean loss into the masters and returns its number of terms.
    """
    total = [torch.zeros_like(master) for _, master in masters.named]
    for backward in rows:
        terms = backward()
        for square, (_, master) in zip(total, masters.named, strict=True):
            if master.grad is not None:
                square.addcmul_(master.grad, master.grad, value=terms**2)
        masters.drop_gradients()
    mean = sum(float(square.sum()) for square in total) / max(1, sum(square.numel() for square in total))
    return [square.div_(mean) if mean > 0 else torch.ones_like(square) for square in total]


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Inside, draws depend on the seed alone; afterwards the generators are as they were."""
    before = RandomState.capture()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.restore()
