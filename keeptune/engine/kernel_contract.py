"""What kernels compute, whichever device they are for; `native.kernels` and `gpu.kernels` have shapes and formulas."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, cast

from torch import Tensor

MOST_SUMMED = 4
"""Products that `summed` adds up; `PARTS` of `native/products.c`."""


class Back(NamedTuple):
    """What a backward pass gives: the value again where it was wanted, and the gradient in each input."""

    value: Tensor | None
    gradients: tuple[Tensor, ...]


class Kernels(Protocol):
    """What those of every device compute. Values of the forward pass are for training: their bits are their own."""

    def norm(self, input: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """The root-mean-square norm."""
        ...

    def norm_back(
        self,
        gradient: Tensor,
        input: Tensor,
        weight: Tensor,
        epsilon: float,
        *,
        again: bool = True,
        onto: Tensor | None = None,
    ) -> Back:
        """Of the root-mean-square norm, added to something."""
        ...

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """SwiGLU."""
        ...

    def gated_back(self, gradient: Tensor, gate: Tensor, up: Tensor, *, again: bool = True) -> Back:
        """Of SwiGLU."""
        ...

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        """The rotary embedding, or the turn back."""
        ...

    def next_token(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Cross-entropies; their gradient takes the place of the logits."""
        ...


class ProcessorKernels(Kernels, Protocol):
    """What those of a processor compute besides; a GPU has FlashAttention, and fast products of many small matrices."""

    def attends(self, width: int) -> bool:
        """Whether `attention` and its gradient take heads of this width."""
        ...

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: tuple[Tensor, Tensor], scale: float
    ) -> tuple[Tensor, Tensor]:
        """Causal attention over packed rows, and the logarithms of its sums."""
        ...

    def attention_back(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gradient: Tensor,
        log_sums: Tensor,
        offsets: tuple[Tensor, Tensor],
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of causal attention over packed rows."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Inside, kernels wait, and run at its end: nothing but a kernel may read what one of them gives before."""
        ...

    @property
    def multiplies(self) -> bool:
        """Whether `summed` is the fastest product here."""
        ...

    def summed(
        self,
        *pairs: tuple[Tensor, Tensor],
        onto: Tensor | None = None,
        into: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """A sum of products, times a number."""
        ...

    def updates(self, rank: int) -> bool:
        """Whether `low_rank` takes factors of this rank."""
        ...

    def low_rank(self, x: Tensor, h: Tensor, A: Tensor, B: Tensor, scale: Tensor, sets: Tensor) -> Tensor:
        """Updates of rows that have factors of their own."""
        ...


def of_processor(kernels: Kernels | None) -> ProcessorKernels | None:
    """The same, where they are a processor's; `isinstance` takes as long as a small kernel."""
    return cast("ProcessorKernels", kernels) if hasattr(kernels, "low_rank") else None
