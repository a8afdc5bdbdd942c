"""What a loss over all sources came to on each of them, without computing anything twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from keeptune.losses import Loss, StepView

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.engine.batch import PackedBatch


def each_source(loss: Loss, batch: PackedBatch) -> list[Loss]:
    """The loss on each source of a batch by itself; one that is of a source already is that alone."""
    if loss.on is not None:
        return [loss]
    return [loss.model_copy(update={"on": source}) for source in dict.fromkeys(batch.sources)]


class BySource:
    """Sums of one global batch, taken apart: sum over all rows = sum over sources of the sum over a source's rows."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._counts: dict[tuple[str, str], float] = {}

    def terms(self, name: str, loss: Loss, view: StepView) -> tuple[Tensor, float]:
        """As `loss.terms`, of a loss with rows in the batch; over several sources it is the sum of one for each."""
        if loss.on is not None:
            return loss.terms(view)
        parts: list[tuple[Tensor, float]] = []
        for one in each_source(loss, view.batch):
            if not len(one.rows(view.batch)):
                continue
            value, own = one.terms(view)
            parts.append((value, own))
            key, seen = (name, str(one.on)), value.detach().double()
            self._sums[key] = self._sums[key] + seen if key in self._sums else seen
            self._counts[key] = self._counts.get(key, 0.0) + own
        total = parts[0][0]
        for value, _ in parts[1:]:
            total = total + value
        return total, sum(own for _, own in parts)

    def means(self, rows: Sequence[Encoded]) -> dict[str, float]:
        """`LOSS/SOURCE`, `rows/SOURCE` and `tokens/SOURCE` of the global batch; nothing where it has one source."""
        sources = list(dict.fromkeys(row.source for row in rows))
        if len(sources) < 2:
            return {}
        found = {
            "/".join(key): float(total) / self._counts[key] for key, total in self._sums.items() if self._counts[key]
        }
        for source in sources:
            own = [row for row in rows if row.source == source]
            found |= {f"rows/{source}": len(own), f"tokens/{source}": sum(len(row.tokens) for row in own)}
        return found
