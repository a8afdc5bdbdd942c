"""The gradient of one global batch: micro-batches, losses, and what to do when memory is short.

    objective = sum_i weight_i * (sum of loss i over the global batch) / (its count over the global batch)

Each micro-batch adds its share of every sum, divided by the count of the whole, so that neither loss nor gradient
depends on how the batch is cut. The count of a loss that weighs its tokens is the sum of their weights, which is known
only after a forward pass: where the batch is cut, one without gradients and dropout comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import MachineError
from keeptune.data.packing import filled
from keeptune.engine.batch import PackedBatch, pack
from keeptune.engine.cloze import cloze_logits
from keeptune.engine.head import Head, head_of
from keeptune.engine.kernels import kernels_of
from keeptune.engine.packed import packed_states
from keeptune.engine.padded import States
from keeptune.engine.readout import Answer, answers
from keeptune.engine.shared_rows import can_share, pack_shared
from keeptune.losses import Loss
from keeptune.stages._anchor import Anchor
from keeptune.stages._by_source import BySource, each_source
from keeptune.stages._kept import KeptReference
from keeptune.stages._masters import Masters
from keeptune.stages._random import RandomState
from keeptune.stages._reference import Reference, Stacks, served

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.stages._on_policy import Teacher
    from keeptune.stages._trunk import Trunk


class View:
    """One micro-batch as the losses see it."""

    def __init__(
        self,
        model: PreTrainedModel,
        batch: PackedBatch,
        states: States,
        reference: Reference | KeptReference | Teacher | None,
    ) -> None:
        self.batch = batch
        self._model, self._states, self._reference = model, states, reference

    @cached_property
    def head(self) -> Head:
        """The model's head."""
        return head_of(self._model)

    @property
    def reference_head(self) -> Head:
        """The reference's head."""
        return self.head if self._reference is None else self._reference.head

    @cached_property
    def answers(self) -> list[Answer]:
        """What the heads that serve the rows say."""
        return answers(self._model, self.batch, self._states)

    def cloze(self, rows: Tensor) -> Tensor:
        """Logits of the masked-language-model head at `rows`."""
        return cloze_logits(self._model, self.at(rows))

    def at(self, rows: Tensor) -> Tensor:
        """Hidden states at `rows`."""
        read, reads = self._states.read, self.batch.reads
        if read is not None and reads is not None and rows.device == reads.device and torch.equal(rows, reads):
            return read
        return self._states.hidden[rows]

    def reference(self, rows: Tensor) -> Tensor:
        """Hidden states of the reference at `rows`."""
        assert self._reference is not None, "this loss does not say that it needs a reference"
        return self._reference.hidden(self.batch, rows)


@dataclass
class StepResult:
    """What one global batch gave, before the update.

    Attributes:
        loss: the objective without the method's penalty; not a number when no loss has a row in the batch.
        parts: mean of each loss over its own count, by name; a loss without rows in this batch is absent. What the
            method adds in training is `penalty`; `NAME.weight` is the mean weight of a loss's tokens before it was
            made 1.
        sources: where the batch has several, the mean of each loss over all of them, the rows and the tokens, each by
            source: `next_token/task`, `rows/task`, `tokens/task`.
        norm: of the whole gradient, before clipping.
        tokens: computed; a prompt that rows share counts once, and what nobody reads at a row's end does not.
        learned: supervised positions.
    """

    loss: float
    parts: dict[str, float]
    norm: float
    tokens: int
    learned: int
    sources: dict[str, float] = field(default_factory=dict)


@dataclass
class Objective:
    """The losses of a stage on a model.

    Attributes:
        model: the one that trains.
        masters: its float32 parameters, which hold the gradient afterwards.
        losses: what is minimised.
        stacks: the adapters that serve the rows of each source.
        reference: what the KL terms compare with.
        micro_batch_tokens: largest micro-batch; a longer row is one by itself.
        overhead_tokens: virtual tokens that each row brings along.
        penalty: what the method adds in training; evaluation never asks.
        trunk: states of the frozen layers below the lowest place that trains, kept from one epoch to the next.
        anchors: where losses on the weights pull to, by the place of the loss.
    """

    model: PreTrainedModel
    masters: Masters
    losses: Sequence[Loss]
    stacks: Stacks
    reference: Reference | KeptReference | Teacher | None
    micro_batch_tokens: int
    overhead_tokens: int = 0
    penalty: Callable[[], Tensor | None] = lambda: None
    trunk: Trunk | None = None
    anchors: Mapping[int, Anchor] = field(default_factory=dict)
    event: Callable[..., None] = field(default=lambda kind, **fields: None)
    _path: str = field(default="", init=False)

    @property
    def names(self) -> list[str]:
        """A name for each loss: the one on the shelf; where two share it, with the source."""
        names = [loss.name for loss in self.losses]
        return [
            name if names.count(name) == 1 else f"{name}.{loss.on or 'all'}"
            for name, loss in zip(names, self.losses, strict=True)
        ]

    def backward(self, rows: Sequence[Encoded]) -> StepResult:
        """Puts the gradient of a global batch into the masters.

        When a GPU runs out of memory the step starts again with micro-batches of half the size; the random generators
        are set back, so that dropout falls as it would have.

        Raises:
            MachineError: a single row does not fit (E-MEMORY-GPU).
        """
        before = RandomState.capture()
        while True:
            self.masters.drop_gradients()
            try:
                apart = BySource()
                if not self.model.training:
                    self.model.train()
                result = self._backward(self._cut(rows), apart)
                result.sources = apart.means(rows)
                return result
            except torch.cuda.OutOfMemoryError as error:
                self._halve(rows, error)
            torch.cuda.empty_cache()
            before.restore()

    @torch.no_grad()
    def value(self, rows: Sequence[Encoded]) -> float:
        """The objective of a global batch as it is now, in evaluation mode."""
        self.model.eval()
        pieces = [self._pieces(batch) for batch in self._cut(rows)]
        sums = [(sum(float(part[i][0]) for part in pieces), sum(part[i][1] for part in pieces)) for i in self._each]
        return sum(
            self.losses[i].weight * total / count for i, (total, count) in zip(self._each, sums, strict=True) if count
        )

    @property
    def _each(self) -> range:
        return range(len(self.losses))

    def _cut(self, rows: Sequence[Encoded]) -> list[PackedBatch]:
        device, shares = self.model.device, can_share(self.model)
        whole_rows = any(loss.reads_labels for loss in self.losses)
        packing = pack if whole_rows or not shares else pack_shared
        batches = micro_batches(rows, self.micro_batch_tokens, self.overhead_tokens, packing)
        given = [self._looked_at(served(batch, self.stacks), ends=shares).to(device) for batch in batches]
        for loss in self.losses:
            given = [loss.given(batch, self.model) for batch in given]
        return given

    def _looked_at(self, batch: PackedBatch, *, ends: bool) -> PackedBatch:
        """The batch with what each loss runs over and reads, found while it is on the processor.

        Where nothing acts on whole rows (`ends`), a row ends with what is read of it; kept states are those of all.
        """
        self._find_rows(batch)
        if any(loss.reads_labels or loss.alters for loss in self.losses):
            return batch  # heads read what they want, and what is altered has other targets
        reads = [loss.reads(batch) for loss in self.losses]
        found = batch.read_at(reads[0] if len(reads) == 1 else torch.unique(torch.cat(reads)))
        if not ends or (self.trunk is not None and self.trunk.covers(batch)):
            return found
        ended = found.until_read()
        if ended is not found:
            self._find_rows(ended)
        return ended

    def _find_rows(self, batch: PackedBatch) -> None:
        for loss in self.losses:
            for one in (loss, *each_source(loss, batch)):
                one.rows(batch)

    def _backward(self, batches: list[PackedBatch], apart: BySource) -> StepResult:
        learned = [sum(len(loss.rows(batch)) for batch in batches) for loss in self.losses]
        counts = self._counts(batches, learned)
        sums = torch.zeros(len(self.losses), dtype=torch.float64, device=batches[0].tokens.device)
        penalties: list[float] = []
        rows = sum(len(batch.ids) for batch in batches)
        for batch in batches:
            objective: Any = 0.0
            for i, (total, count) in enumerate(self._pieces(batch, apart)):
                if count:
                    counts[i] = counts[i] or count
                    sums[i] += total.detach()
                    objective = objective + self.losses[i].weight * total / counts[i]
            penalty = self.penalty()
            if penalty is not None:
                objective = objective + penalty * len(batch.ids) / rows
                penalties.append(float(penalty.detach()) * len(batch.ids) / rows)
            if isinstance(objective, Tensor) and objective.requires_grad:
                torch.autograd.backward(objective)
                self.masters.collect()
        pulls = self._pull()
        gradients = self.masters.gradients
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        means = [total / count if count else 0.0 for total, count in zip(sums.tolist(), counts, strict=True)]
        parts = {name: mean for name, mean, count in zip(self.names, means, counts, strict=True) if count}
        weighed = {
            f"{self.names[i]}.weight": counts[i] / learned[i]
            for i in self._each
            if self.losses[i].weighs and learned[i]
        }
        value = sum(loss.weight * mean for loss, mean in zip(self.losses, means, strict=True)) if any(learned) else nan
        return StepResult(
            loss=value + sum(self.losses[i].weight * pull for i, pull in pulls.items()),
            parts=parts
            | weighed
            | {self.names[i]: pull for i, pull in pulls.items()}
            | ({"penalty": sum(penalties)} if penalties else {}),
            norm=float(norm),
            tokens=sum(len(batch.tokens) for batch in batches),
            learned=sum(batch.learned for batch in batches),
        )

    def _counts(self, batches: list[PackedBatch], learned: list[int]) -> list[float]:
        """What each loss divides by; 0 for the weights of a batch in one piece, which its own forward pass gives."""
        if not any(loss.weighs for loss in self.losses):
            return [float(count) for count in learned]
        masses = [0.0] * len(learned)
        if len(batches) > 1:
            self.model.eval()
            with torch.no_grad(), self.masters.unremembered():
                for batch in batches:
                    masses = [mass + float(piece[1]) for mass, piece in zip(masses, self._pieces(batch), strict=True)]
            self.model.train()
        return [masses[i] if self.losses[i].weighs else float(learned[i]) for i in self._each]

    def _pull(self) -> dict[int, float]:
        """Adds the gradient of the losses on the weights; the value of each, by its place."""
        values = {}
        for i, anchor in self.anchors.items():
            weight = self.losses[i].weight
            value, gradients = self.losses[i].pull(anchor)
            values[i] = float(value)
            for (_, master), gradient in zip(self.masters.named, gradients, strict=True):
                pull = weight * gradient
                master.grad = pull if master.grad is None else master.grad.add_(pull)
        return values

    def _pieces(self, batch: PackedBatch, apart: BySource | None = None) -> list[tuple[Tensor, float]]:
        """Sum and count of each loss on one micro-batch; a loss without rows in it is not computed."""
        wanted = [len(loss.rows(batch)) for loss in self.losses]
        if not any(wanted):
            return [(torch.zeros(()), 0) for _ in self.losses]
        view = View(self.model, batch, self._states(batch), self.reference)
        apart = apart or BySource()
        return [
            (torch.zeros(()), 0) if not count else apart.terms(name, loss, view)
            for name, loss, count in zip(self.names, self.losses, wanted, strict=True)
        ]

    def _states(self, batch: PackedBatch) -> States:
        layers = any(loss.reads_labels for loss in self.losses)
        if self.trunk is not None and self.trunk.covers(batch):
            hidden = self.trunk.hidden(batch)
            # A head above a trunk reads the last states, and no others.
            return States(hidden, (hidden,) * (self.model.config.num_hidden_layers + 1) if layers else ())
        states = packed_states(self.model, batch, layers=layers)
        if self.model.body_path != self._path:
            self._path = self.model.body_path
            self.event(
                "forward_pass", path=self._path, kernels=kernels_of(self.model.device, self.model.dtype) is not None
            )
        return states

    def _halve(self, rows: Sequence[Encoded], error: Exception) -> None:
        largest = max(len(batch.tokens) for batch in self._cut(rows))
        longest = max(len(row.tokens) for row in rows)
        if largest <= longest:
            raise MachineError(
                f"the GPU has no memory for a single row of {longest} tokens.",
                code="E-MEMORY-GPU",
                fix="Set `memory: {gradient_checkpointing: true}`, shorten the rows, or train fewer parameters.",
            ) from error
        self.micro_batch_tokens = max(longest, largest // 2)
        self.event("out_of_memory", micro_batch_tokens=self.micro_batch_tokens, was=largest)


def micro_batches(
    rows: Sequence[Encoded],
    limit: int,
    overhead: int = 0,
    packing: Callable[[Sequence[Encoded]], PackedBatch] = pack,
) -> list[PackedBatch]:
    """Cuts a global batch, in order, into packed batches of at most `limit` tokens, `overhead` per row included."""
    groups = filled(enumerate(len(row.tokens) + overhead for row in rows), limit)
    return [packing([rows[place] for place in group]) for group in groups]
