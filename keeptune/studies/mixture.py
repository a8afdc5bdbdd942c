"""What should the data be made of? Amounts and proportions of several domains, each domain measured on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from keeptune.core.counting import counted
from keeptune.core.errors import DivergedError
from keeptune.core.files import atomic_write
from keeptune.core.score import Score
from keeptune.core.spec import validate
from keeptune.evaluations.target import Metric
from keeptune.recipes.recipe import load_recipe
from keeptune.report.mixture_page import mixture_page, mixture_text
from keeptune.stages.train import Train
from keeptune.studies import Plain, Study, Work
from keeptune.studies._bench import Arm, Bench, proven
from keeptune.studies._cells import others
from keeptune.studies._domains import cells_of, domain_targets, held_out
from keeptune.studies._lineup import arm_recipe
from keeptune.studies._points import Point, last_train, own_steps, scaled, tokens_of, train_stages, with_steps
from keeptune.studies.designs import Design, Ground, Table
from keeptune.studies.designs.vary import Vary

ALIKE = ("method", "optimizer", "batch_tokens", "packing")
"""What the recipes beside take from the study's recipe, so that they differ from it in their data alone."""


class Mixture(Study):
    """The recipe at every point of a design, by seeds; every domain is scored on rows that no arm trains on.

    A domain is a source of the recipe's data. It has its own test rows where it brings some, else `hold_out` of its
    rows. Its score is the proof's where it is the target, else bits per byte of its answers, or what `metrics` says.
    """

    design: Design = Field(Vary(), description="keeptune list designs")
    beside: list[str] = Field(default=[], max_length=12, description="recipes on as many tokens: sequential, multitask")
    seeds: int = Field(3, ge=1, le=10, description="draws and runs of each point")
    tokens: int | None = Field(None, ge=1, description="where all runs draw alike; unset: what the recipe draws")
    metrics: dict[str, Metric] = Field(default_factory=dict, description="of a domain, instead of bits per byte")
    hold_out: float = Field(0.1, gt=0, lt=1, description="of the rows of a source without test rows")
    abilities: bool = Field(True, description="measure the proof's suite too")
    jobs: int = Field(1, ge=1, le=64, description="runs at a time, of a small model on the processor")

    def conduct(self, work: Work) -> Plain:
        """Trains and measures what is not done yet; writes `mixture.html` into the study's folder.

        Raises:
            RecipeError: the recipe has no proof with a target (E-STUDY-PROOF), or the design does not fit it.
            DivergedError: no point was trained to the end with every seed.
            Interrupted: a signal came; finished arms are kept.
        """
        proven(work.recipe)
        return Conducted(self, work).result()


class Conducted:
    """One study under way."""

    def __init__(self, study: Mixture, work: Work) -> None:
        self.study, self.work = study, work
        recipe = work.recipe
        self.domains = domain_targets(recipe, list(recipe.data), study.metrics)
        self.bench = Bench(
            work, self.domains, lambda made: held_out(work, recipe, made, study.hold_out), study.abilities
        )
        train = self.bench.material(recipe).train
        rows = {name: sum(_teaches(row) for row in one.rows) for name, one in train.items()}
        steps = own_steps(recipe, train)
        self.tokens = study.tokens or tokens_of(recipe, steps)
        target = str(getattr(recipe.proof and recipe.proof.target, "data", "task"))
        self.ground = Ground(recipe, rows, scaled(recipe, steps, self.tokens), target)
        self.arms: list[tuple[Point, list[Plain]]] = []

    def result(self) -> Plain:
        """Both rounds of the design, and what they say."""
        points = [*self.study.design.points(self.ground), *(self._beside(name) for name in self.study.beside)]
        seeds = self.study.seeds
        self.work.progress.say(f"{counted(len(points) * seeds, 'run')}; the base is measured first")
        base = self.bench.base()
        self._train(points)
        self._train(self.study.design.more(self.ground, self._table(base)))
        table = self._table(base)
        result = {**self._told(base, table), **self.study.design.read(self.ground, table)}
        page = self.work.run.folder / "mixture.html"
        atomic_write(page, mixture_page(result).encode())
        return {**result, "page": str(page), "text": f"{mixture_text(result)}\npage  {page}"}

    def _beside(self, name: str) -> Point:
        """The order and the mixture of another recipe; method, optimiser, batch and tokens are those of the study's."""
        study, shelf = self.work.recipe, train_stages(load_recipe(name))
        arm = arm_recipe(study, name, self.tokens, 1.0, study.seed)
        own = study.stages[last_train(study)].to_dict()
        stages = list(arm.stages)
        for place, old in zip(train_stages(arm), shelf.values(), strict=True):
            plain = {**stages[place].to_dict(), "epochs": old.epochs, "steps": old.steps}
            stages[place] = validate(Train, {**plain, **{key: own[key] for key in ALIKE}})
        natural = arm.model_copy(update={"stages": stages, "data": {**study.data, **arm.data}})
        steps = own_steps(natural, self.bench.material(natural).train)
        return Point(arm.name, {}, with_steps(natural, scaled(natural, steps, self.tokens)), beside=True)

    def _train(self, points: Sequence[Point]) -> None:
        """Every point with the first seed, then with the next: what is stopped has whole rounds."""
        seeds, made = range(self.work.recipe.seed, self.work.recipe.seed + self.study.seeds), dict[str, list[Plain]]()
        arms: list[Arm] = [
            (f"{point.label}-{seed}", point.seeded(seed), {"seed": seed}) for seed in seeds for point in points
        ]
        self.bench.arms(arms, self.study.jobs)
        with self.work.arms("mixing", len(arms)) as done:
            for label, recipe, head in arms:
                arm, point = self.bench.arm(label, recipe, head), label.rpartition("-")[0]
                made.setdefault(point, []).append(arm)
                done(f"{point}, seed {arm['seed']}: {arm['failed'] or str(round(arm['seconds'])) + ' s'}")
        self.arms += [(point, made[point.label]) for point in points]

    def _sound(self) -> list[tuple[Point, list[Plain]]]:
        sound = [(point, own) for point, own in self.arms if all(arm["failed"] is None for arm in own)]
        if not sound:
            raise DivergedError("every point of the study diverged.", code="E-NONFINITE", fix="Lower the rate.")
        return sound

    def _table(self, base: Sequence[Score]) -> Table:
        sound = self._sound()
        found = [[self.bench.scores(arm) for arm in own] for _, own in sound]
        cells = {one.data: cells_of(one, found) for one in self.domains}
        first = {one.data: cells_of(one, [[base]]).cell(0).value or 0.0 for one in self.domains}
        return Table([point for point, _ in sound], self.domains, cells, first)

    def _told(self, base: Sequence[Score], table: Table) -> Plain:
        sound = self._sound()
        n = {one.data: score.n for one in self.domains for score in base if score.task == one.data}
        beside = [place for place, point in enumerate(table.points) if point.beside]
        return {
            "design": self.study.design.name, "recipe": self.work.recipe.name, "seeds": self.study.seeds,
            "confidence": 0.9, "tokens": self.tokens,
            "domains": [
                {"name": one.data, "metric": one.metric, "n": n[one.data], "base": table.base[one.data],
                 "higher_is_better": table.cells[one.data].higher_is_better}
                for one in self.domains
            ],
            "cells": [
                {"label": point.label, "at": dict(point.at), "beside": point.beside,
                 "scores": {name: cells.cell(place).to_dict() for name, cells in table.cells.items()},
                 **others(base, [self.bench.scores(arm) for arm in own])}
                for place, (point, own) in enumerate(sound)
            ],
            "contrasts": [
                {"domain": name, "cell": table.points[place].label, "than": table.points[other].label,
                 **cells.gain(place, other).to_dict()}
                for name, cells in table.cells.items() for place in table.own() for other in beside
            ],
            "failed": [{"cell": point.label, "seed": arm["seed"], "what": arm["failed"]}
                       for point, own in self.arms for arm in own if arm["failed"]],
            "hours": round(sum(arm["seconds"] for _, own in self.arms for arm in own) / 3600, 3),
        }  # fmt: skip


def _teaches(row: Any) -> bool:
    return any(row.learned[1:]) or row.answer is not None
