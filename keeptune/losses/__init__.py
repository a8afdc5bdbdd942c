"""What training minimises: one file per loss, written on hidden states and rows, never on logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field
from typing_extensions import Self

from keeptune.core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.engine.batch import PackedBatch
    from keeptune.engine.head import Head
    from keeptune.engine.readout import Answer


class StepView(Protocol):
    """What a loss may look at: one packed micro-batch of T tokens and the model's answer to it.

    Attributes:
        batch: tokens, targets (already shifted, -100 = none), weights, segments with their sources.
        head: the model's head.
        reference_head: the base's head; the same object unless the head trains.
        answers: what the heads that serve the rows say: scores and labels of each row.
    """

    batch: PackedBatch

    @property
    def head(self) -> Head: ...  # noqa: D102

    @property
    def reference_head(self) -> Head: ...  # noqa: D102

    @property
    def answers(self) -> Sequence[Answer]: ...  # noqa: D102

    def at(self, rows: Tensor) -> Tensor:
        """Final-norm hidden states [N, D] at `rows` (positions of the batch), of those that the loss `reads`.

        Gradients flow back through them.
        """
        ...

    def reference(self, rows: Tensor) -> Tensor:
        """Hidden states [N, D] of the base model at `rows` (positions of the batch), without gradient."""
        ...

    def cloze(self, rows: Tensor) -> Tensor:
        """Logits [N, V] of a masked-language-model head at `rows`."""
        ...


class Anchor(Protocol):
    """What a loss on the weights themselves may look at; the three lists run in parallel, in float32.

    Attributes:
        now: the weights that train.
        start: the same ones before the stage.
        importance: of each of them; ones where nothing was asked for.
    """

    @property
    def now(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def start(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def importance(self) -> Sequence[Tensor]: ...  # noqa: D102


class Loss(Spec, shelf="keeptune.losses"):
    """A sum over tokens and how many tokens it ran over; or, with `pulls`, a function of the weights themselves.

    The training objective of one optimiser step is `sum_i weight_i * sum_i / count_i`, where the sum and the count of
    loss i run over the whole global batch: the same global batch gives the same loss however it is cut into
    micro-batches. A loss that `weighs` its tokens counts the sum of their weights, so that their mean is 1.

    Attributes:
        needs_reference: it compares with the checkpoint that the stage started from.
        reads_labels: it learns the labels of a head.
        reads_pairs: it compares the better with the worse answer of a row.
        weighs: its count is the sum of the weights of its tokens.
        pulls: it runs over no row, but over the weights: `pull` instead of `terms`.
        alters: the model is given other tokens than the rows have: `given`.
    """

    needs_reference: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    pulls: ClassVar[bool] = False
    alters: ClassVar[bool] = False

    on: str | None = Field(None, description="name of the source it is restricted to; unset: every source")
    weight: float = Field(1.0, gt=0, le=1e6, description="its factor in the objective")

    def rows(self, batch: PackedBatch) -> Tensor:
        """Positions [N] of the batch that this loss runs over: those with a target, in segments of `on`.

        The worse answer of a pair is none of them.
        """
        import torch

        def find() -> Tensor:
            learned = batch.targets != -100
            for _, worse in batch.pairs:
                learned[batch.offsets[worse] : batch.offsets[worse + 1]] = False
            if self.on is not None:
                for source, start, end in zip(batch.sources, batch.offsets[:-1], batch.offsets[1:], strict=True):
                    if source != self.on:
                        learned[start:end] = False
            return torch.nonzero(learned).squeeze(-1)

        return batch.known(f"targets of {self.on or 'every source'}", find)

    def reads(self, batch: PackedBatch) -> Tensor:
        """Positions of the batch, ascending, whose hidden states it looks at; the others may not be computed."""
        return self.rows(batch)

    def given(self, batch: PackedBatch, model: PreTrainedModel) -> PackedBatch:
        """What the model is given in place of a batch."""
        return batch

    def terms(self, view: StepView) -> tuple[Tensor, float]:
        """The differentiable sum over `rows(view.batch)`, and the number of rows, or the sum of their weights."""
        raise NotImplementedError

    def calibrated(self, row_losses: Callable[[str | None], Sequence[float]]) -> Self:
        """With the settings that only the base's losses can decide.

        Args:
            row_losses: the base's mean loss, in nats, of the training rows of a source (None: of every source).
        """
        return self

    def sources(self) -> list[str]:
        """Sources that it looks at beside those that are trained on."""
        return []

    def pull(self, anchor: Anchor) -> tuple[Tensor, list[Tensor]]:
        """Value and gradient of a loss on the weights; the gradient in the order of `anchor.now`."""
        raise NotImplementedError
