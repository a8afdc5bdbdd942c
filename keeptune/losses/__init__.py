"""What training minimises: one file per loss, written on hidden states and rows, never on logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from keeptune.core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch
    from keeptune.engine.head import Head
    from keeptune.engine.readout import Answer


class StepView(Protocol):
    """What a loss may look at: one packed micro-batch of T tokens and the model's answer to it.

    Attributes:
        batch: tokens, targets (already shifted, -100 = none), weights, segments with their sources.
        hidden: final-norm hidden states [T, D]; gradients flow back through them.
        head: the model's head.
        reference_head: the base's head; the same object unless the head trains.
        answers: what the heads that serve the rows say: scores and labels of each row.
    """

    batch: PackedBatch
    hidden: Tensor

    @property
    def head(self) -> Head: ...  # noqa: D102

    @property
    def reference_head(self) -> Head: ...  # noqa: D102

    @property
    def answers(self) -> Sequence[Answer]: ...  # noqa: D102

    def reference(self, rows: Tensor) -> Tensor:
        """Hidden states [N, D] of the base model at `rows` (positions of the batch), without gradient."""
        ...


class Loss(Spec, shelf="keeptune.losses"):
    """A sum over tokens and how many tokens it ran over.

    The training objective of one optimiser step is `sum_i weight_i * sum_i / count_i`, where the sum and the count of
    loss i run over the whole global batch: the same global batch gives the same loss however it is cut into
    micro-batches.
    """

    needs_reference: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    on: str | None = Field(None, description="name of the source it is restricted to; unset: every source")
    weight: float = Field(1.0, gt=0, le=1e6, description="its factor in the objective")

    def rows(self, batch: PackedBatch) -> Tensor:
        """Positions [N] of the batch that this loss runs over: those with a target, in segments of `on`."""
        import torch

        learned = batch.targets != -100
        if self.on is not None:
            for source, start, end in zip(batch.sources, batch.offsets[:-1], batch.offsets[1:], strict=True):
                if source != self.on:
                    learned[start:end] = False
        return torch.nonzero(learned).squeeze(-1)

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The differentiable sum over `rows(view.batch)`, and the number of rows."""
        raise NotImplementedError
