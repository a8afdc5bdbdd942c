"""The train stage from one end to the other: open, attach, train, resume, roll back, write the output."""

from __future__ import annotations

import gc
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from keeptune.core.checkpoint import AdapterRef, Checkpoint, serving
from keeptune.core.errors import DivergedError, Interrupted, PlanError, RecipeError, did_you_mean
from keeptune.engine.book import book_of
from keeptune.engine.positions import positions_before, refuse_beyond_table
from keeptune.engine.rows import active
from keeptune.losses import Loss
from keeptune.methods import after_step, attach, penalty
from keeptune.stages import StageWork
from keeptune.stages._alignment import alignment
from keeptune.stages._commits import Commits, Start, read_state
from keeptune.stages._kept import KeptReference, kept_reference
from keeptune.stages._layers_twice import compute_layers_twice
from keeptune.stages._masters import Masters
from keeptune.stages._on_policy import OnPolicyPlan, Teacher, old_self, on_policy_plan
from keeptune.stages._output import Output
from keeptune.stages._plan import Plan, plan_steps, rows_digest
from keeptune.stages._prepared import prepared
from keeptune.stages._reference import Reference, Stacks
from keeptune.stages._session import Counters, Diverging, Session
from keeptune.stages._step import Objective
from keeptune.stages._trackers import Harmless
from keeptune.stages._trainer import StepTrainer
from keeptune.stages._trunk import Trunk, trunk_of
from keeptune.stages._watch import Watch
from keeptune.stages.distill import Distill

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.models.load import Loaded
    from keeptune.stages.train import Train

WHOLE = 10_000_000  # micro-batch tokens when the whole batch is computed at once


def train(stage: Train, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
    """See `Train.run`. A session that diverges is begun again once, from the last commit with half the rate."""
    _check(stage, work)
    for rate_scale in (1.0, 0.5):
        attempt = Attempt(stage, checkpoint, work, rate_scale)
        try:
            return attempt.run()
        except Diverging as error:
            halved, reason = attempt.session.counters.rate_scale < 1, str(error)
            kept = attempt.session.commits.newest()
        del attempt
        gc.collect()
        if halved:
            break
        work.run.event("rolled_back", stage=stage.label, to=kept, rate_scale=0.5, reason=reason)
    raise DivergedError(
        f"training diverged: {reason}.",
        code="E-NONFINITE",
        where={"key": f"stages[{work.index}].optimizer.lr"},
        why=f"Half the learning rate did not help. The last good state is kept (step {kept or 0}).",
        fix="Lower `lr`, or look at the rows that events.jsonl names under step_skipped.",
    )


class Attempt:
    """One session, from loading to the output."""

    def __init__(self, stage: Train, checkpoint: Checkpoint, work: StageWork, rate_scale: float) -> None:
        self.stage, self.checkpoint, self.work = stage, checkpoint, work
        self.loaded: Loaded = work.open(checkpoint)
        self.name, self.label = _new_name(stage, checkpoint), stage.label
        attach(self.loaded.model, stage.methods, self.name, seed=work.seed)
        self._thaw()
        twice, layers = compute_layers_twice(self.loaded.model, stage.memory, work.layers_twice)
        if twice:
            setting = stage.memory.gradient_checkpointing
            work.run.event("layers_twice", stage=self.label, layers=twice, of=layers, setting=setting)
        masters = Masters(self.loaded.model)
        if not masters.named:
            raise PlanError(
                f"'{_label(stage)}' leaves nothing to train on this model.",
                code="E-TRAIN-FROZEN",
                where={"key": f"stages[{work.index}].method"},
                fix="Choose another method, or other targets.",
            )
        overhead = self._overhead()
        plan = self._plan(overhead)
        self._refuse_long()
        commits = Commits(work.folder, self._exactness(plan), stage.saving.keep)
        self.start: Start = commits.start(work.run, weights_only=work.weights_only)
        counters = self._counters(rate_scale)
        self.output = Output(self.loaded, self.name, checkpoint, stage, work.folder)
        objective = self._objective(masters, plan, counters.micro_batch_tokens, overhead)
        if self.start.weights is not None:
            masters.load(self.start.weights)
        self.session = Session(
            stage=stage,
            run=work.run,
            label=self.label,
            plan=plan,
            objective=objective,
            commits=commits,
            counters=counters,
            look=self._look if _has_dev(work) else None,
            guarding=work.guard,
            guard_look=self._guard_look,
            snapshot=self.output.snapshot,
            after_step=partial(after_step, self.loaded.model, self.name),
            vocabulary=getattr(self.loaded.model.config, "vocab_size", 0),
        )
        self.session.protect()

    def _plan(self, overhead: int) -> Plan:
        plan = plan_steps(self.stage, self.work.data, self.work.seed, overhead)
        if isinstance(self.stage, Distill):
            return on_policy_plan(self.stage, plan, self.loaded, self.work, self.stacks(new=True))
        return plan

    def _thaw(self) -> None:
        """Lets earlier adapters learn again; a part that its method froze stays as it is."""
        book, earlier = book_of(self.loaded.model), [ref.name for ref in self.checkpoint.adapters]
        assert book is not None, "the method is attached"
        for name in self.stage.thaw:
            if name not in earlier:
                raise PlanError(
                    f"'{name}' is no adapter of an earlier stage.",
                    code="E-TRAIN-THAW",
                    where={"key": f"stages[{self.work.index}].thaw"},
                    fix=did_you_mean(name, earlier)
                    if earlier
                    else "Put a stage that makes an adapter before this one.",
                )
            adapter = book.adapter(name)
            for method, part in zip(adapter.methods, adapter.parts, strict=True):
                part.requires_grad_(not method.frozen)

    def _objective(self, masters: Masters, plan: Plan, micro_batch_tokens: int, overhead: int) -> Objective:
        """Losses and gradients, prepared at the weights that the stage starts from: no commit is loaded yet."""
        objective = Objective(
            model=self.loaded.model,
            masters=masters,
            losses=self.stage.losses,
            stacks=self.stacks(new=True),
            reference=self._reference(plan),
            micro_batch_tokens=micro_batch_tokens,
            overhead_tokens=overhead,
            penalty=partial(penalty, self.loaded.model, self.name),
            trunk=self._trunk(plan),
            event=self.work.run.event,
        )
        return prepared(objective, plan, self._kept_sources(), self.work.seed, self._served)

    def run(self) -> Checkpoint:
        """Trains what is left to train, then writes the output."""
        session, threads = self.session, torch.get_num_threads()
        torch.set_num_threads(session.counters.threads)
        try:
            if self.start.step < session.total and not session.counters.ended:
                self._train()
        finally:
            torch.set_num_threads(threads)
        chosen = self._chosen_step()
        if chosen is not None:
            session.objective.masters.load(session.commits.weights(chosen))
        if not session.objective.masters.finite():
            raise Diverging("the last weights are not finite")
        return self.output.final()

    def _chosen_step(self) -> int | None:
        """The step whose weights are the output; None: the last one's, which are in place."""
        counters = self.session.counters
        if counters.spent:
            return counters.inside_step
        return counters.best_step if self.stage.saving.best else None

    def _train(self) -> None:
        session, work = self.session, self.work
        with work.progress.track(self.label, session.total, self.start.step) as track:
            watch = Watch(session, track, logs=bool(self.stage.report_to))
            trackers = [Harmless(name, self._tracker_failed) for name in self.stage.report_to]
            trainer = StepTrainer(session, work.folder, [watch, *trackers])
            watch.trainer = trainer
            resume = self.start.commit
            if resume is None and session.budgeted:
                session.counters.inside_step = self.start.step
                session.protect()
            if resume is None and (self.start.weights is not None or session.budgeted):
                resume = trainer.begin_from_weights(self.start.step)
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        if watch.interrupted:
            raise Interrupted(
                "stopped by a signal; everything up to the last step is committed.",
                code="E-RUN-INTERRUPTED",
                fix="Run the same command again to go on.",
            )

    def stacks(self, *, new: bool) -> Stacks:
        """The adapters that serve each source's rows, with the new one or without."""
        sources = self.stage.shares.keys()
        task = (sources & self.work.task) or set(sources)
        scopes = [(ref.name, ref.scope) for ref in self.checkpoint.adapters]
        if new and self.stage.adds:
            scopes.append((self.name, self.stage.scope))
        return {source: serving(scopes, source, task=source in task) for source in sources}

    def _served(self, source: str) -> tuple[str, ...]:
        """The adapters that serve a source that is looked at and not trained on."""
        scopes = [(ref.name, ref.scope) for ref in self.checkpoint.adapters]
        return serving(scopes, source, task=source in self.work.task)

    def _kept_sources(self) -> dict[str, Sequence[Encoded]]:
        """Rows of the sources that losses look at beside the training data."""
        wanted = dict.fromkeys(source for loss in self.stage.losses for source in loss.sources())
        missing = next((source for source in wanted if source not in self.work.data), None)
        if missing is not None:
            raise RecipeError(
                f"a loss of the stage looks at '{missing}', which is no source of the recipe.",
                code="E-TRAIN-SOURCE",
                where={"key": f"stages[{self.work.index}].losses"},
                fix=did_you_mean(missing, self.work.data),
            )
        return {source: self.work.data[source].rows for source in wanted}

    def _reference(self, plan: Plan) -> Reference | KeptReference | Teacher | None:
        losses, model = self.stage.losses, self.loaded.model
        copied = not self.stage.detachable or bool(self.stage.thaw)
        if isinstance(plan, OnPolicyPlan):
            return Teacher(self._teaching(plan, copied=copied), plan)
        if not any(loss.needs_reference for loss in losses):
            return None
        if not any(self.stacks(new=False).values()) and not any(loss.alters for loss in losses):
            kept = kept_reference(model, losses, plan, self.work.cache, copied=copied)
            if kept is not None:
                self.work.run.event("reference_kept", stage=self.label, rows=len(kept.states))
                return kept
        return self._own_reference(copied=copied)

    def _teaching(self, plan: OnPolicyPlan, *, copied: bool) -> Reference:
        """The teacher's model."""
        if plan.stage.teacher == "start":
            return self._own_reference(copied=copied)
        same = self.work.base is not None and self.checkpoint.base == self.work.base.base
        return old_self(self.loaded.model, self.stacks(new=False), self.work, detachable=same and not copied)

    def _own_reference(self, *, copied: bool) -> Reference:
        """The checkpoint that the stage started from."""
        if not copied:
            return Reference(self.loaded.model, self.stacks(new=False), copied=False)
        copy = self.work.open(self.checkpoint).model.requires_grad_(False)
        size = sum(parameter.numel() * parameter.element_size() for parameter in copy.parameters())
        self.work.run.event("reference_copy", stage=self.label, bytes=size)
        return Reference(copy, self.stacks(new=False), copied=True)

    def _trunk(self, plan: Plan) -> Trunk | None:
        if isinstance(plan, OnPolicyPlan) or any(loss.alters for loss in self.stage.losses):
            return None
        trunk = trunk_of(self.loaded.model, plan, self.work.cache)
        if trunk is not None:
            self.work.run.event("trunk", stage=self.label, cut=trunk.cut, rows=len(trunk.states))
        return trunk

    def _look(self) -> dict[str, float]:
        """What dev says of the model as it answers on its task."""
        model, work = self.loaded.model, self.work
        on_task = max(self.stacks(new=True).values(), key=len)
        model.eval()
        if work.dev is not None:
            with torch.no_grad(), active(model, on_task):
                return {"dev_score": float(work.dev(self.loaded))}
        assert work.dev_rows is not None
        dev = replace(
            self.session.objective,
            losses=[_dev_loss(self.stage.losses)],
            stacks={row.source: on_task for row in work.dev_rows.rows},
            reference=None,
            trunk=None,
            micro_batch_tokens=min(self.session.objective.micro_batch_tokens, self.stage.batch_tokens),
        )
        return {"dev_loss": dev.value(work.dev_rows.rows)}

    def _guard_look(self) -> dict[str, float]:
        """What the guard sees of the model as it would be deployed now."""
        assert self.work.guard is not None, "asked only where there is a guard"
        stage = self.stage
        new = () if not stage.adds else (AdapterRef(self.name, self.work.folder, stage.scope),)
        seen = self.work.guard.look(self.loaded, (*self.checkpoint.adapters, *new))
        if self.work.guard.guard.alignment:
            seen["guard_alignment"] = alignment(self.session.objective, self.session.plan.rows(0))
        return seen

    def _refuse_long(self) -> None:
        """Where positions are a table, a row and what is put before it are no longer: the recipe left room for both."""
        model, stacks = self.loaded.model, self.stacks(new=True)
        taken = {source: positions_before(model, stack) for source, stack in stacks.items()}
        rows = ((source, row) for source in stacks for row in self.work.data[source].rows)
        refuse_beyond_table(model, (row.longest + taken[source] for source, row in rows))

    def _overhead(self) -> int:
        """Positions that virtual tokens and prefixes take before a row of the task."""
        book = book_of(self.loaded.model)
        assert book is not None, "the method is attached"
        return book.room(max(self.stacks(new=True).values(), key=len))

    def _counters(self, rate_scale: float) -> Counters:
        if self.start.commit is not None:
            stored = Counters.from_dict(read_state(self.start.commit))
            stored.rate_scale = min(stored.rate_scale, rate_scale)
            return stored
        limit = self.stage.memory.micro_batch_tokens or WHOLE
        return Counters(rate_scale=rate_scale, micro_batch_tokens=limit, threads=torch.get_num_threads())

    def _exactness(self, plan: Plan) -> dict[str, Any]:
        parameter = next(self.loaded.model.parameters())
        gpu = parameter.is_cuda
        kept = {source: rows_digest(rows) for source, rows in self._kept_sources().items()}
        return {
            "stage": self.stage.exactness(),
            "seed": self.work.seed,
            "data": plan.sources,
            "order": plan.digest,
            **({"kept": kept} if kept else {}),
            "base": self.loaded.fingerprint,
            "adapters": [[ref.name, ref.scope] for ref in self.checkpoint.adapters],
            "dtype": str(self.loaded.dtype),
            "world_size": 1,
            "device": torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability(),
            "versions": {name: version(name) for name in ("keeptune", "torch", "transformers")},
            "python": platform.python_version(),
        }

    def _tracker_failed(self, name: str, reason: str) -> None:
        self.work.run.event("tracker_failed", stage=self.label, tracker=name, reason=reason)
        self.work.progress.say(f"The tracker '{name}' failed and is off; training goes on. {reason}")


def _check(stage: Train, work: StageWork) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise PlanError(
            "training runs in one process; this one is part of a group.",
            code="E-TRAIN-WORLD",
            fix="Start it without torchrun or accelerate launch.",
        )
    if stage.saving.watches_dev and not _has_dev(work):
        raise PlanError(
            "`best` and `patience` look at dev data, and this recipe has none.",
            code="E-TRAIN-DEV",
            where={"key": f"stages[{work.index}].saving"},
            fix="Give the data source a dev split, or take these settings out.",
        )


def _has_dev(work: StageWork) -> bool:
    return work.dev is not None or (work.dev_rows is not None and len(work.dev_rows.rows) > 0)


def _new_name(stage: Train, checkpoint: Checkpoint) -> str:
    """The stage's id, else the methods' names; a number keeps it apart from earlier adapters."""
    taken = {ref.name for ref in checkpoint.adapters}
    first = stage.id or _label(stage)
    candidates = [first, *(f"{first}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in candidates if name not in taken)


def _label(stage: Train) -> str:
    return "-".join(method.name for method in stage.methods)


def _dev_loss(losses: Sequence[Loss]) -> Loss:
    """What dev rows are judged by: labels of a head or masked tokens where they are learned, else the next token."""
    if any(loss.reads_labels for loss in losses):
        return Loss.find("label")()
    return Loss.find("masked_token" if any(loss.alters for loss in losses) else "next_token")()
