"""Cross-entropy over the labels of a head: one term per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from keeptune.core.errors import DataError
from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch


class Label(Loss):
    """-log softmax(scores)[answer], in nats, on every row that has an answer; the count is that of the rows."""

    reads_labels: ClassVar[bool] = True

    def rows(self, batch: PackedBatch) -> Tensor:
        """Rows [N] of the batch that have an answer, in segments of `on`."""
        import torch

        answers = batch.answers or [None] * len(batch.ids)
        wanted = [self.on in (None, source) for source in batch.sources]
        chosen = [row for row, answer in enumerate(answers) if answer is not None and wanted[row]]
        return torch.tensor(chosen, dtype=torch.long)

    def terms(self, view: StepView) -> tuple[Tensor, int]:
        """The sum over the rows, and their number.

        Raises:
            DataError: an answer is no label of the row's head (E-HEAD-ANSWER).
            PlanError: a row is served by no head (E-HEAD-NONE).
        """
        import torch

        rows, batch = self.rows(view.batch).tolist(), view.batch
        groups: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            groups.setdefault(view.answers[row].labels, []).append(row)
        total = view.answers[0].scores.new_zeros(())
        for labels, members in groups.items():
            scores = torch.stack([view.answers[row].scores for row in members])
            gold = torch.tensor([self._place(batch, row, labels) for row in members], device=scores.device)
            total = total + torch.nn.functional.cross_entropy(scores, gold, reduction="sum")
        return total, len(rows)

    @staticmethod
    def _place(batch: PackedBatch, row: int, labels: tuple[str, ...]) -> int:
        """Index of the row's answer among the labels."""
        answer = None if batch.answers is None else batch.answers[row]
        if answer not in labels:
            raise DataError(
                f"'{answer}' is no label of the head.",
                code="E-HEAD-ANSWER",
                where={"key": batch.sources[row] or None},
                why=f"Row {batch.ids[row]}; the head knows {len(labels)} labels.",
                fix="List the labels in the method `head`, or restrict the loss with `on`.",
            )
        return labels.index(answer)
