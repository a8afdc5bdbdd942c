"""The jobs of a recipe: each train stage, and each method in its place, as the planner takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keeptune.core.cost import Cost
from keeptune.core.shape import ModelShape
from keeptune.data.beginnings import computed
from keeptune.data.packing import filled
from keeptune.losses import Loss
from keeptune.methods import Method, cost
from keeptune.models.families import FAMILIES
from keeptune.planning.forecast import Job, least_checkpointed
from keeptune.planning.memory import FIRST_STEP, LOGITS_ON_GPU, Base, Reference, Step
from keeptune.planning.time import Work
from keeptune.stages._compared import NONE, Compared
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded, EncodedSet
    from keeptune.recipes.recipe import Model, Recipe
    from keeptune.stages._plan import Plan


STEPS_READ = 64
"""Steps of a plan from which the share of tokens that rows do not share is taken."""
SURE = 0.85
"""Share of the free memory that a forecast may fill: it has been up to 15% too low in measurements."""


@dataclass(frozen=True)
class Batches:
    """What was read off the planned batches of a stage.

    Attributes:
        tokens: of the largest micro-batch.
        row: mean length of its rows.
        answers: mean number of its rows' answers.
        learned: supervised positions in it.
        micro_batches: of its step.
        work: all steps.
        compared: what a KL term would compare with the reference.
        shared: the share of the tokens that is computed where rows that begin alike may share it.
    """

    tokens: int
    row: float
    learned: int
    micro_batches: int
    work: Work
    compared: Compared = NONE
    answers: float = 1
    shared: float = 1.0

    @classmethod
    def of(cls, plan: Plan, losses: Sequence[Loss], limit: int | None) -> Batches:
        """Of a plan, cut into micro-batches of at most `limit` tokens."""
        steps = [plan.rows(step) for step in range(len(plan))]
        largest = max(steps, key=_tokens)
        pieces = _cut(largest, limit or _tokens(largest))
        piece = max(pieces, key=_tokens)
        return cls(
            tokens=_tokens(piece),
            row=_tokens(piece) / len(piece),
            learned=max(_learned(part) for part in pieces),
            micro_batches=len(pieces),
            work=Work(
                sum(map(_tokens, steps)), sum(map(_learned, steps)), sum(map(len, steps)), sum(map(_answers, steps))
            ),
            compared=Compared.of(losses, plan),
            answers=_answers(piece) / len(piece),
            shared=_shared(steps[:: max(1, len(steps) // STEPS_READ)], limit),
        )

    def seen_by(self, shape: ModelShape) -> Batches:
        """As the model's blocks see them: an image is a row of pixels, and they compute its patches."""
        if shape.family not in FAMILIES or FAMILIES[shape.family].kind != "image":
            return self
        share = shape.context / self.row
        work = replace(self.work, tokens=round(self.work.tokens * share))
        return replace(self, tokens=round(self.tokens * share), row=float(shape.context), work=work)


def base_of(model: Model, config: Mapping[str, object]) -> Base:
    """The recipe's base as the planner sees it."""
    shape = ModelShape.from_config(config)
    return Base(shape, 4 if model.checkpoint.dtype == "float32" else 2, model.quantize is not None)


def batches_of(stage: Train, data: Mapping[str, EncodedSet], seed: int) -> Batches:
    """The batches that the stage would make of this data; virtual tokens are counted by the planner."""
    from keeptune.stages._plan import plan_steps

    return Batches.of(plan_steps(stage, data, seed, 0), stage.losses, stage.memory.micro_batch_tokens)


def job_of(
    stage: Train, base: Base, batches: Batches, methods: Sequence[Method] | None = None, *, gpu: bool = False
) -> Job:
    """A stage as a job, with its own methods or with others in their place."""
    chosen = stage.methods if methods is None else list(methods)
    total: Cost = cost(chosen, base.shape)
    batches = batches.seen_by(base.shape)
    work = batches.work
    family = FAMILIES.get(base.shape.family)
    if family is not None and family.kind == "decoder" and all(method.mergeable for method in chosen):
        # What can be folded into weights acts on each token alone; of what else does, the forecast is too long.
        work = replace(work, tokens=round(work.tokens * batches.shared))
    detachable = all(method.detachable for method in chosen)
    reference: Reference = "none"
    if any(loss.needs_reference for loss in stage.losses):
        width_bytes = base.shape.width * base.size
        kept = batches.compared.worth_keeping(width_bytes, copied=not detachable)
        reference = "kept" if kept else "off" if detachable else "copy"
    step = Step(
        tokens=batches.tokens,
        row=batches.row,
        learned=batches.learned,
        micro_batches=batches.micro_batches,
        checkpointed=stage.memory.layers_twice(base.shape.layers),
        moments=stage.optimizer.moments,
        reference=reference,
        compared=batches.compared.tokens,
        **(LOGITS_ON_GPU if gpu else {}),
        answers=batches.answers,
        anchors=len({copy for loss in stage.losses if loss.pulls for copy in ("start", *loss.sources())}),
    )
    label = " + ".join(method.name for method in chosen) + (" (nf4)" if base.quantized else "")
    in_place = any(method.trains_base for method in chosen)
    saving = stage.saving
    return Job(label, base, total, in_place, step, work, saving.keep, saving.snapshots)


def jobs_of(
    recipe: Recipe, config: Mapping[str, object], data: Mapping[str, EncodedSet], room: int, *, gpu: bool
) -> dict[str, Job]:
    """The train stages of a recipe by their labels, each with the layers computed twice that its room asks for.

    Args:
        recipe: what is run.
        config: of the base.
        data: the encoded rows of each source.
        room: bytes that a stage may take.
        gpu: whether the model is on one.
    """
    base, data = base_of(recipe.model, config), with_made(recipe, data)
    jobs = {}
    for stage in recipe.stages:
        if isinstance(stage, Train):
            job = job_of(stage, base, batches_of(stage, data, recipe.seed), gpu=gpu)
            jobs[stage.label] = within(stage, job, room, gpu=gpu)
    return jobs


def with_made(recipe: Recipe, data: Mapping[str, EncodedSet]) -> dict[str, EncodedSet]:
    """The data with a stand-in for each source that a stage is still to make: the rows that it takes questions from."""
    found = dict(data)
    for stage in recipe.stages:
        for name, origin in stage.made_from().items():
            found.setdefault(name, found[origin])
    return found


def within(stage: Train, job: Job, room: int, *, gpu: bool) -> Job:
    """The job with the fewest layers computed twice that fits, where the stage leaves that open."""
    if stage.memory.gradient_checkpointing != "auto":
        return job
    return least_checkpointed(job, round(SURE * room), lambda memory: memory.peak if gpu else memory.resident)


def training_bytes(jobs: Mapping[str, Job], process: int, *, gpu: bool) -> int | None:
    """Bytes at the peak of a run's training; None without a train stage.

    The base that everything is measured against stays loaded beside the model that trains: on a GPU it is added, on a
    processor the process holds it already.

    Args:
        jobs: its train stages.
        process: what the process holds when the training begins: interpreter, libraries, rows, the base, and what
            measuring the base left behind; it is no part of a GPU's memory.
        gpu: whether the model is on one.
    """
    if not jobs:
        return None
    if gpu:
        return max(job.memory.peak for job in jobs.values()) + next(iter(jobs.values())).base.bytes
    return max(job.memory.resident for job in jobs.values()) + FIRST_STEP + process


def _tokens(rows: Sequence[Encoded]) -> int:
    return sum(len(row.tokens) for row in rows)


def _learned(rows: Sequence[Encoded]) -> int:
    return sum(sum(row.learned[1:]) for row in rows)


def _answers(rows: Sequence[Encoded]) -> int:
    return sum(max(1, len(row.starts.answers)) for row in rows)


def _cut(rows: Sequence[Encoded], limit: int) -> list[list[Encoded]]:
    """As the training step cuts: consecutive rows of at most `limit` tokens."""
    return [[rows[place] for place in piece] for piece in filled(enumerate(len(row.tokens) for row in rows), limit)]


def _shared(steps: Sequence[Sequence[Encoded]], limit: int | None) -> float:
    """The share of the tokens of these steps that is computed where what rows begin with comes once a micro-batch."""
    pieces = [piece for rows in steps for piece in _cut(rows, limit or _tokens(rows))]
    return min(1.0, sum(map(computed, pieces)) / sum(map(_tokens, pieces)))
