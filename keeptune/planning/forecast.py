"""Forecast: memory, minutes and disk of one train stage, and what to change when it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from keeptune.core.cost import Cost
from keeptune.core.errors import PlanError
from keeptune.planning.disk import stage_bytes
from keeptune.planning.memory import Base, Memory, Step, training_memory
from keeptune.planning.time import Work, minutes, operations

GB = 1e9


@dataclass(frozen=True)
class Job:
    """A method on a base, with what it goes through.

    Attributes:
        label: how the table calls it.
        base: the model.
        cost: of the method.
        in_place: whether the base's own weights train.
        step: the largest micro-batch, losses, optimiser.
        work: all steps.
        commits: that the stage keeps.
        snapshots: that it writes.
    """

    label: str
    base: Base
    cost: Cost
    in_place: bool
    step: Step
    work: Work
    commits: int = 2
    snapshots: int = 0

    @property
    def memory(self) -> Memory:
        """Bytes, the process itself left out."""
        return training_memory(self.base, self.cost, self.step, in_place=self.in_place)

    @property
    def share(self) -> float:
        """Trained parameters as a share of the base's."""
        return self.cost.trainable_parameters / self.base.shape.parameters()

    def minutes(self, rate: float) -> float:
        """On a machine of that rate of products, in operations per second."""
        return minutes(operations(self.base, self.cost, self.step, self.work, in_place=self.in_place), rate)

    def disk(self) -> dict[str, int]:
        """Bytes that the stage writes."""
        return stage_bytes(
            self.base,
            self.cost,
            in_place=self.in_place,
            moments=self.step.moments,
            commits=self.commits,
            snapshots=self.snapshots,
        )

    def to_dict(self, rate: float) -> dict[str, Any]:
        """Plain data, for the table and `--json`."""
        return {
            "name": self.label,
            "trainable_parameters": self.cost.trainable_parameters,
            "trainable_share": self.share,
            "memory": self.memory.to_dict(),
            "layers_twice": [self.step.checkpointed, self.base.shape.layers],
            "minutes": self.minutes(rate),
            "disk": self.disk(),
        }


def checkpointed(job: Job, layers: int) -> Job:
    """The job with so many of its lowest layers computed twice."""
    return replace(job, step=replace(job.step, checkpointed=layers))


def least_checkpointed(job: Job, room: int, needs: Callable[[Memory], int]) -> Job:
    """The job with the fewest layers computed twice that fits; with all of them where none does.

    Args:
        job: with the layers that are computed twice in any case.
        room: bytes that can be had.
        needs: the part of a forecast that has to fit in there.
    """
    layers = job.base.shape.layers
    fewest = range(job.step.checkpointed, layers + 1)
    return next(
        (one for one in (checkpointed(job, n) for n in fewest) if needs(one.memory) <= room), checkpointed(job, layers)
    )


def savings(job: Job) -> dict[str, int]:
    """Bytes of peak memory that each change would save, largest first; changes that save nothing are left out."""
    step = job.step
    changes = {"`memory.gradient_checkpointing: true`": checkpointed(job, job.base.shape.layers)}
    half = replace(step, tokens=step.tokens // 2, learned=step.learned // 2, micro_batches=2 * step.micro_batches)
    changes[f"`memory.micro_batch_tokens: {half.tokens}`"] = replace(job, step=half)
    if not job.in_place and not job.base.quantized:
        changes["`model.quantize: nf4`"] = replace(job, base=replace(job.base, quantized=True))
    if job.base.size > 2:
        changes["`model.dtype: bfloat16`"] = replace(job, base=replace(job.base, size=2))
    saved = {change: job.memory.peak - other.memory.peak for change, other in changes.items()}
    return dict(sorted(((c, s) for c, s in saved.items() if s > 0), key=lambda item: -item[1]))


def refusal(job: Job, free: int, process: int) -> PlanError:
    """The error when not even the smallest job fits, with its arithmetic.

    Args:
        job: the one that needs least.
        free: bytes that can be had.
        process: bytes of the process itself.
    """
    memory = job.memory
    parts = {
        "the process": process,
        "weights": memory.weights + memory.reference,
        "trained parameters and optimizer": memory.trained + memory.moments,
        "the step": memory.peak - memory.state,
    }
    shown = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    cheaper = "; ".join(f"{change} saves {size / GB:.1f} GB" for change, size in list(savings(job).items())[:3])
    return PlanError(
        f"{(memory.peak + process) / GB:.1f} GB needed, {free / GB:.1f} GB free ({shown}).",
        code="E-PLAN-MEMORY",
        why=f"That is '{job.label}', the method that needs least.",
        fix=f"{cheaper}." if cheaper else "Use a smaller model.",
    )
