"""What kernels compute, whichever device they are for; `native.kernels` and `gpu.kernels` have shapes and formulas."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Back(NamedTuple):
    """What a backward pass gives: the value again where it was wanted, and the gradient in each input."""

    value: Tensor | None
    gradients: tuple[Tensor, ...]


class Kernels(Protocol):
    """What those of every device compute."""

    def norm_back(self, gradient: Tensor, input: Tensor, weight: Tensor, epsilon: float, *, again: bool = True) -> Back:
        """Of the root-mean-square norm."""
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


@runtime_checkable
class AttentionKernels(Kernels, Protocol):
    """What those of a processor compute besides; a GPU has FlashAttention."""

    def attends(self, width: int) -> bool:
        """Whether `attention_back` takes heads of this width."""
        ...

    def attention_back(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gradient: Tensor,
        log_sums: Tensor,
        offsets: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of causal attention over packed rows."""
        ...


@runtime_checkable
class ForwardKernels(Kernels, Protocol):
    """What those of a GPU compute besides, for the forward pass of a training step.

    Where a model is measured torch's operators run, so that a base is transformers' base bit by bit.
    """

    def norm(self, input: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """The root-mean-square norm."""
        ...

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """SwiGLU."""
        ...
