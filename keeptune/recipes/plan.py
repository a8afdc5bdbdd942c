"""`keeptune plan`: what each method would need, what fits, and what the proof will see. No weight is read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import KeeptuneError
from keeptune.core.machine import available_memory, free_memory
from keeptune.core.spec import validate
from keeptune.core.usage import resident_bytes
from keeptune.data.encode import EncodedSet, encode_all
from keeptune.data.formats.generated import Generated
from keeptune.evaluations.halves import Halves, halves_of
from keeptune.evaluations.target import MOST_LABELS, Target
from keeptune.methods import Method
from keeptune.models.families import family_of
from keeptune.planning.forecast import Job, refusal
from keeptune.planning.time import minutes
from keeptune.recipes.at_hand import require_at_hand
from keeptune.recipes.jobs import Batches, base_of, batches_of, job_of, with_made, within
from keeptune.recipes.material import longest_row
from keeptune.recipes.measuring import refuse_unknown_margins, suite_of
from keeptune.recipes.positions_left import left_for_text, positions_taken
from keeptune.recipes.proof_work import proof_reading
from keeptune.recipes.recipe import Recipe, load_recipe, recipe_path
from keeptune.recipes.sources import Source, read_sources
from keeptune.recipes.weights_dtype import with_dtype
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.planning.memory import Base

PREFERRED = ("lora", "lora (nf4)", "ia3", "bitfit", "prompt")
"""Detachable, so off is the base, bitwise, and the base is its own KL reference; the earlier, the stronger."""


def plan(recipe: str | Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Plans a recipe from Python; see `plan_recipe`."""
    return plan_recipe(str(recipe), [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()])


def plan_recipe(name: str, settings: list[str]) -> dict[str, Any]:
    """Forecasts a recipe, and every method in the place of its last train stage's.

    Args:
        name: file or name of the recipe.
        settings: `--set` overrides.

    Raises:
        PlanError: nothing fits into the memory of this machine (E-PLAN-MEMORY).
        KeeptuneError: the recipe, its data or its model cannot be used.
    """
    recipe, folder = load_recipe(name, settings), recipe_path(name).parent

    require_at_hand(recipe, folder)

    # What follows needs torch: a fault of the recipe is told before it is imported.
    from keeptune.models.load import look
    from keeptune.recipes.plan_page import page

    recipe, dtype = with_dtype(recipe)
    config, tokenizer = look(recipe.model.name, recipe.model.revision)
    base, sources = base_of(recipe.model, config), read_sources(recipe, folder)
    data = _encoded(recipe, sources, tokenizer, config)
    machine = Machine.here(dtype.name)
    stages = {stage.label: stage.fitted(data) for stage in recipe.stages if isinstance(stage, Train)}
    batches = {label: batches_of(stage, data, recipe.seed) for label, stage in stages.items()}
    own = {
        label: within(stage, job_of(stage, base, batches[label], gpu=machine.gpu), machine.room, gpu=machine.gpu)
        for label, stage in stages.items()
    }
    last = list(stages)[-1]
    labels = _labels(stages[last], data)
    table, refused = methods_table(stages[last], base, batches[last], machine.room, labels, gpu=machine.gpu)
    fitting = [job for job in table if machine.fits(job)]
    if not fitting:
        raise refusal(min(table, key=lambda job: job.memory.peak), machine.free, machine.process)
    result = {
        "recipe": {label: job.to_dict(machine.rate) for label, job in own.items()},
        "fits": all(machine.fits(job) for job in own.values()),
        "methods": [{**job.to_dict(machine.rate), "fits": machine.fits(job)} for job in table],
        "refused": refused,
        "recommended": recommended(fitting, own[last]),
        "machine": machine.to_dict(),
        "dtype": dtype.to_dict(),
        "proof": _proof(recipe, folder, sources, tokenizer, config, machine.rate),
        "power": _power(recipe, folder, sources, family_of(config).kind),
    }
    return {**result, "text": page(result, name, settings, str(dtype))}


@dataclass(frozen=True)
class Machine:
    """What this machine has.

    Attributes:
        free: bytes that a training process could take.
        process: bytes that the process itself takes, on the processor's memory.
        rate: floating-point operations per second of a large product in the dtype of the weights.
        gpu: whether there is one; memory and rate are then its own.
    """

    free: int
    process: int
    rate: float
    gpu: bool = False

    @classmethod
    def here(cls, dtype: str) -> Machine:
        """Measured now, for weights of this dtype."""
        import torch

        from keeptune.stages import _training  # noqa: F401 (what a run would have imported)

        if torch.cuda.is_available():
            return cls(free_memory(gpu=True), 0, product_rate("cuda", dtype), gpu=True)
        return cls(available_memory() + resident_bytes(), resident_bytes(), product_rate("cpu", dtype))

    @property
    def room(self) -> int:
        """Bytes that training may take beside the process."""
        return self.free - self.process

    def fits(self, job: Job) -> bool:
        """Whether there is room for it beside the process."""
        return job.memory.peak <= self.room

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"free": self.free, "process": self.process, "rate": self.rate, "gpu": self.gpu}


def product_rate(device: str, dtype: str, size: int = 1024, seconds: float = 0.3) -> float:
    """Operations per second of two products of square matrices of that dtype, 2 size^3 each; the best of several.

    The two are those of a linear map: x W^T forward and d W back. A processor without units for bfloat16 multiplies
    the one several times as fast as the other.
    """
    import torch

    from keeptune.models.precision import DTYPES

    matrix = torch.ones(size, size, dtype=DTYPES[dtype], device=device)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        float((matrix @ matrix.T)[0, 0] + (matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 4 * size**3 / best


def methods_table(
    stage: Train, base: Base, batches: Batches, room: int, labels: Sequence[str] = (), *, gpu: bool = False
) -> tuple[list[Job], list[dict[str, str]]]:
    """Every method with its usual settings in the place of the stage's, on the base as it is and in 4 bits.

    Args:
        stage: whose place they take.
        base: the model.
        batches: of the stage.
        room: bytes that a training process could take.
        labels: of the data, where its answers are labels: a head scores them.
        gpu: whether there is one.

    Returns:
        The jobs, by their peak, and why the others cannot work on this model.
    """
    jobs, refused = [], []
    own = {method.name: method for method in stage.methods}
    for name in Method.names():
        try:
            method = (own.get(name) or validate(Method, {"name": name})).fitted(labels)
            for quantized in (False, True):
                if quantized and not method.fits_4bit:
                    continue
                job = job_of(stage, replace(base, quantized=quantized), batches, [method], gpu=gpu)
                jobs.append(within(stage, job, room, gpu=gpu))
        except KeeptuneError as error:
            refused.append({"name": name, "reason": str(error)})
    return sorted(jobs, key=lambda job: job.memory.peak), refused


def recommended(fitting: list[Job], own: Job) -> dict[str, str]:
    """One of the jobs that fit, and why."""
    names = {job.label: job for job in fitting}
    if own.label in names and not own.in_place:
        reason = "the recipe's own: it fits, and taken off it leaves the base bitwise, so the base is its own reference"
        return {"name": own.label, "reason": reason}
    for name in PREFERRED:
        if name in names:
            reason = "it fits, and taken off it leaves the base bitwise, so the base is its own reference"
            return {"name": name, "reason": reason}
    smallest = min(fitting, key=lambda job: job.memory.peak)
    return {"name": smallest.label, "reason": "it needs the least memory of those that fit"}


def _encoded(
    recipe: Recipe, sources: Mapping[str, Source], tokenizer: Any, config: Mapping[str, Any]
) -> dict[str, EncodedSet]:
    """The training rows of every source; text that the base is still to write counts at its full length."""
    context, kind = longest_row(config), family_of(config).kind
    taken = positions_taken(recipe, config, tokenizer)
    found = {}
    for name in recipe.trained:
        settings = recipe.data[name]
        if isinstance(settings, Generated):
            found[name] = _unwritten(name, settings)
            continue
        rows = sources[name].train
        found[name] = encode_all(
            rows, tokenizer, too_long=recipe.too_long, context=left_for_text(context, taken.get(name, 0)),
            template=recipe.template, kind=kind, pairs=name in recipe.paired,
        )  # fmt: skip
    return with_made(recipe, found)


def _unwritten(name: str, settings: Generated) -> EncodedSet:
    from keeptune.data.encoder import Encoded

    length = settings.max_tokens
    rows = [Encoded(f"{name}-{n}", name, (0,) * length, (False, *(True,) * (length - 1))) for n in range(settings.rows)]
    return EncodedSet(tuple(rows), {"read": settings.rows, "kept": settings.rows}, (), ())


def _labels(stage: Train, data: Mapping[str, EncodedSet]) -> list[str]:
    """The different answers of a stage's rows, where so few are a set of labels."""
    rows = (row for source in stage.shares if source in data for row in data[source].rows)
    answers = sorted({row.answer for row in rows if row.answer is not None})
    return answers if len(answers) <= MOST_LABELS else []


def _proof(
    recipe: Recipe,
    folder: Path,
    sources: Mapping[str, Source],
    tokenizer: Any,
    config: Mapping[str, Any],
    rate: float,
) -> dict[str, Any] | None:
    """What the proof reads and how long that takes, of all seeds; the base is measured once."""
    if recipe.proof is None:
        return None
    suite = suite_of(recipe.proof.suite, folder, recipe.proof.items)
    task = sources[recipe.proof.target.data] if isinstance(recipe.proof.target, Target) else None
    rows = (*task.test, *task.ood) if task else ()
    head = any(loss.reads_labels for stage in recipe.stages if isinstance(stage, Train) for loss in stage.losses)
    kind = family_of(config).kind
    reading = proof_reading(recipe.proof, suite, rows, tokenizer, kind, head=head) * ((1 + recipe.proof.seeds) / 2)
    base = base_of(recipe.model, config)
    unread = [f"{task.name}, which the harness fetches" for task in suite.harness]
    unread += ["the diagnosis, some two or three times the rest"] if recipe.proof.diagnose else []
    return {**asdict(reading), "minutes": minutes(reading.operations(base), rate), "uncounted": unread}


def _power(recipe: Recipe, folder: Path, sources: Mapping[str, Source], kind: str) -> dict[str, Any] | None:
    """Of the abilities that this kind of model is asked: halves of texts of an encoder, none of an image encoder."""
    from keeptune.planning.power import suite_power

    if recipe.proof is None or kind == "image":
        return None
    suite = suite_of(recipe.proof.suite, folder, recipe.proof.items)
    brought = tuple(task for source in sources.values() for task in source.tasks)
    suite = replace(suite, tasks=brought if kind == "encoder" else (*suite.tasks, *brought))
    refuse_unknown_margins(recipe.proof.margins, suite)
    sizes = suite.sizes()
    if kind == "encoder":
        sizes |= {halves_of(corpus): min(len(corpus.documents), Halves().documents) for corpus in suite.corpora}
    items = {name: size for name, size in sizes.items() if size is not None}
    found = suite_power(items, recipe.proof.margins.to_dict())
    if found is None:
        return None
    unknown = [name for name, size in sizes.items() if size is None]
    return {"suite": suite.name, "items": items, "unknown": unknown, **found}
