"""What losses over pairs of answers share: how likely each answer is or has become, and where its tokens stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch


class Answers(NamedTuple):
    """Of P pairs: a sum over the tokens of each answer, in nats, and how many those are; each [P]."""

    better: Tensor
    worse: Tensor
    better_tokens: Tensor
    worse_tokens: Tensor


class PairLoss(Loss):
    """A loss with one term for each pair; its count is that of the pairs."""

    reads_pairs: ClassVar[bool] = True

    def pairs(self, batch: PackedBatch) -> list[tuple[int, int]]:
        """(segment of the better answer, segment of the worse) of those on `on`."""
        return [pair for pair in batch.pairs if self.on in (None, batch.sources[pair[0]])]

    def rows(self, batch: PackedBatch) -> Tensor:
        """One position [P] for each pair: the first of its better answer."""
        import torch

        def find() -> Tensor:
            learned = batch.targets != -100
            spans = [slice(*batch.offsets[better : better + 2]) for better, _ in self.pairs(batch)]
            first = [span.start + int(learned[span].nonzero()[0]) for span in spans]
            return torch.tensor(first, dtype=torch.long, device=learned.device)

        self._positions(batch)
        return batch.known(f"pairs of {self._whose}", find)

    def reads(self, batch: PackedBatch) -> Tensor:
        """Those that predict a token of an answer."""
        return self._positions(batch)[0]

    def likelihoods(self, view: StepView) -> Answers:
        """Log p(answer | prompt)."""
        from keeptune.losses._row_losses import row_losses

        rows, sides = self._positions(view.batch)
        losses = row_losses(view.at(rows), view.batch.targets[rows], view.head)
        return self._summed(-losses, sides, 2 * len(self.pairs(view.batch)))

    def log_ratios(self, view: StepView) -> Answers:
        """Log p(answer | prompt) - log p0(answer | prompt), p0 the reference."""
        from keeptune.losses._row_losses import row_losses
        from keeptune.losses._weighted_rows import base_losses

        rows, sides = self._positions(view.batch)
        now = row_losses(view.at(rows), view.batch.targets[rows], view.head)
        return self._summed(base_losses(view, rows) - now, sides, 2 * len(self.pairs(view.batch)))

    def _positions(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Positions [N] that predict a token of an answer, ascending, and the place of that answer: 2p or 2p + 1."""
        import torch

        def find() -> Tensor:
            side_T = torch.full_like(batch.targets, -1)
            for number, pair in enumerate(self.pairs(batch)):
                for side, segment in enumerate(pair):
                    side_T[batch.offsets[segment] : batch.offsets[segment + 1]] = 2 * number + side
            rows = torch.nonzero((batch.targets != -100) & (side_T >= 0)).squeeze(-1)
            return torch.stack([rows, side_T[rows]])

        rows, sides = batch.known(f"answers of pairs of {self._whose}", find)
        return rows, sides

    @property
    def _whose(self) -> str:
        return self.on or "every source"

    @staticmethod
    def _summed(values_N: Tensor, sides_N: Tensor, count: int) -> Answers:
        nothing = values_N.new_zeros(count)
        sums, tokens = (nothing.index_add(0, sides_N, each) for each in (values_N, values_N.new_ones(len(values_N))))
        return Answers(sums[0::2], sums[1::2], tokens[0::2], tokens[1::2])
