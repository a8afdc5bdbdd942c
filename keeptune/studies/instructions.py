"""What makes instruction data teach: wordings, tasks, kinds never trained, dialogues, quantity, diversity, quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.digest import digest_of
from keeptune.core.errors import RecipeError
from keeptune.core.files import atomic_write
from keeptune.core.score import Score
from keeptune.core.usage import hours_of
from keeptune.evaluations import Context
from keeptune.evaluations.target import Target
from keeptune.recipes.material import Material, encoded, gather
from keeptune.recipes.measuring import measure
from keeptune.report.instructions_table import instructions_text
from keeptune.stages._progress import Progress
from keeptune.statistics.two_arms import FEWEST_SEEDS, between
from keeptune.studies import Plain, Study, Work
from keeptune.studies._arms import identity, target_of, trained
from keeptune.studies._instruction_design import BASE, Contrast, Design, Rows
from keeptune.studies._instruction_rows import Pool, add_rows
from keeptune.studies._instruction_wordings import add_wordings, read_plan

LEVEL = 0.9
LOSS = "bits_per_byte"
Written = Literal["exact_match", "rouge_1", "rouge_2", "rouge_l", "token_f1"]


class Instructions(Study):
    """Arms of instruction data, each trained by the recipe with several seeds and measured on rows that none saw.

    Every arm has the recipe's settings, so that `steps` in the recipe makes arms equal in tokens. Seed j of all arms
    draws its rows and their order with seed + j. The recipe's target source holds single-turn rows; sources of the
    names `dialogues`, `narrow`, `rejected` and `outside`, and a plan of `data build`, carry further questions. What
    the data cannot carry is named beside the results. Two-sided 90%, and at 90% for all comparisons together
    (Bonferroni): `keeptune.statistics.two_arms`.
    """

    plan: str | None = Field(None, description="file of `data build`, relative to the recipe: for wordings and tasks")
    least: int = Field(500, ge=1, description="rows of the smallest arm")
    sizes: list[Annotated[int, Field(ge=1)]] = Field([1000, 2000], max_length=10, description="for quantity")
    added: int = Field(30, ge=1, description="dialogues that are added to single turns")
    seeds: int = Field(3, ge=FEWEST_SEEDS, le=20, description="draws and runs of each arm")
    items: int = Field(300, ge=30, description="most rows of an exam")
    metric: Written = Field("rouge_l", description="of greedy answers, beside the loss")
    max_new_tokens: int = Field(48, ge=1, le=4096, description="longest written answer")

    def conduct(self, work: Work) -> Plain:
        """Arms that are not done, then the tables: `instructions.md` in the study's folder.

        Raises:
            RecipeError: the recipe names no task (E-STUDY-TARGET), or no question can be asked (E-STUDY-QUESTIONS).
        """
        bench = Bench(self, work)
        design = bench.design
        if not design.contrasts:
            reasons = " ".join(f"{name}: {reason}" for name, reason in design.refused.items())
            raise RecipeError(
                "none of the study's questions can be asked of this data.", code="E-STUDY-QUESTIONS", why=reasons,
                fix="Give the recipe's target more rows, or the study a plan: --with plan=plan.yaml",
            )  # fmt: skip
        used = [name for name in [BASE, *design.arms] if design.measured(name)]
        plan = [(name, seed) for seed in range(self.seeds) for name in used if seed == 0 or name != BASE]
        made: dict[str, list[Plain]] = {name: [] for name in used}
        with work.arms("arms", len(plan)) as done:
            for name, seed in plan:
                made[name].append(bench.arm(name, seed))
                done(f"{name}, seed {work.recipe.seed + seed}: {counted(made[name][-1]['rows'], 'row')}")
        result = {**bench.about(), "level": LEVEL, "arms": _arms(made), "refused": design.refused,
                  "comparisons": self._comparisons(design.contrasts, made),
                  "hours": hours_of(arm for own in made.values() for arm in own)}  # fmt: skip
        page = work.run.folder / "instructions.md"
        atomic_write(page, instructions_text(result))
        return {**result, "page": str(page), "text": f"{instructions_text(result)}\npage  {page}"}

    def _comparisons(self, contrasts: Sequence[Contrast], made: Mapping[str, Sequence[Plain]]) -> list[Plain]:
        strict = 1 - (1 - LEVEL) / (2 * len(contrasts))
        return [
            {**vars(one), "metric": metric, **self._read(one, metric, made, strict)}
            for one in contrasts
            for metric in (LOSS, self.metric)
        ]

    def _read(self, one: Contrast, metric: str, made: Mapping[str, Sequence[Plain]], strict: float) -> Plain:
        """Both values and the change between them."""
        first, second = ([arm["exams"][one.exam][metric] for arm in made[name]] for name in (one.first, one.second))
        first, second = (part * (self.seeds // len(part)) for part in (first, second))
        sizes, scores = first[0]["sizes"], [[arm["items"] for arm in part] for part in (first, second)]
        found, joint = (between(scores[0], scores[1], sizes, level) for level in (LEVEL, strict))
        better, worse = joint.low > 0, joint.high < 0
        if metric == LOSS:
            better, worse = worse, better
        values = [sum(map(sum, part)) / (len(part) * sum(sizes)) for part in scores]
        verdict = "better" if better else "worse" if worse else "no difference shown"
        return {"n": len(sizes), "values": values, **found._asdict(), "verdict": verdict}


class Bench:
    """The arms of one study, with what they share."""

    def __init__(self, study: Instructions, work: Work) -> None:
        self.study, self.work, self.recipe = study, work, work.recipe
        target_of(self.recipe)
        base = self.recipe.model.checkpoint
        self.material: Material = gather(self.recipe, work.recipe_folder, work.workshop, base, work.progress)
        self.source = str(self.material.target)
        if self.source not in self.material.train:
            raise RecipeError(
                "no stage trains on the source that is measured, so no arm would differ from another.",
                code="E-STUDY-TARGET", where={"key": "proof.target.data"}, fix="Train on it, or measure another one.",
            )  # fmt: skip

    @cached_property
    def design(self) -> Design:
        """The questions that the data carries; rows that the base cannot take whole are no part of an exam."""
        study, made = self.study, Design()
        test, seed = self.recipe.split.test, self.recipe.seed
        if study.plan is None:
            made.refused |= dict.fromkeys(("templates", "tasks", "held-out kind"), "the study has no plan.")
        else:
            path = (self.work.recipe_folder or Path()) / study.plan
            add_wordings(made, read_plan(path), path.parent, test, study.items, seed)
        pool = Pool(self.material.sources, self.source, study.least, study.sizes, study.added, study.items, seed)
        add_rows(made, pool)
        made.exams = {name: self._whole(rows) for name, rows in made.exams.items()}
        return made

    def arm(self, name: str, seed: int) -> Plain:
        """Trains and measures, unless that was done before."""
        single = self.recipe.model_copy(update={"seed": self.recipe.seed + seed})
        rows: Rows = () if name == BASE else self.design.arms[name](single.seed)
        exams = {exam: self.design.exams[exam] for exam in self.design.measured(name)}
        told = [self.study.metric, self.study.max_new_tokens]
        arm = identity(self.work, single, self.material)
        decides = [arm, _digest(rows), {exam: _digest(own) for exam, own in exams.items()}, told]
        label = f"{name.replace(' ', '-').replace(',', '').replace('+', 'and')}-{seed}"

        def make() -> Plain:
            checkpoint = single.model.checkpoint
            if rows:
                checkpoint = trained(self.work, single, self._of(rows), self.work.folder(label) / "run")
            return {"rows": len(rows), "exams": {exam: self._scores(checkpoint, exam) for exam in exams}}

        return self.work.once(label, decides, make)

    def about(self) -> Plain:
        """What the tables say above themselves."""
        stage = self.recipe.stages[-1].to_dict()
        return {
            "recipe": self.recipe.name, "model": self.recipe.model.name, "seeds": self.study.seeds,
            "length": {key: stage[key] for key in ("steps", "epochs", "batch_tokens") if stage.get(key)},
            "methods": [method.name for method in getattr(self.recipe.stages[-1], "methods", [])],
            "max_new_tokens": self.study.max_new_tokens,
        }  # fmt: skip

    def _of(self, rows: Rows) -> Material:
        """The material with these rows to train on."""
        whole = self.material.sources[self.source]
        loaded = self.work.workshop.shared(self.recipe.model.checkpoint)
        rows = tuple(replace(row, source=self.source) for row in rows)  # a stage knows its rows by their source
        part = replace(whole, train=rows, digest=digest_of([whole.digest, _digest(rows)]))
        train = {**self.material.train, self.source: encoded(self.recipe, loaded, rows, self.source)}
        return replace(self.material, sources={**self.material.sources, self.source: part}, train=train)

    def _whole(self, rows: Rows) -> Rows:
        if not rows:
            return rows
        loaded = self.work.workshop.shared(self.recipe.model.checkpoint)
        dropping = self.recipe.model_copy(update={"too_long": "drop"})
        kept = {row.id for row in encoded(dropping, loaded, rows, self.source).rows}
        return tuple(row for row in rows if row.id in kept)

    def _scores(self, checkpoint: Checkpoint, exam: str) -> Plain:
        """Item scores of the loss and of what is written."""
        from keeptune.models.device import scoring_tokens

        device = self.work.workshop.shared(self.recipe.model.checkpoint).model.device
        context = Context(
            subject=self.work.workshop.subject, base=self.recipe.model.checkpoint,
            data={"exam/test": self.design.exams[exam]}, seed=self.recipe.seed,
            batch_tokens=scoring_tokens(device), cache=cache_folder(),
        )  # fmt: skip
        wanted = [Target(data="exam", metric=LOSS)]
        wanted.append(Target(data="exam", metric=self.study.metric, max_new_tokens=self.study.max_new_tokens))
        found: Sequence[Score] = measure("arm", wanted, checkpoint, context, Progress(quiet=True), self.work.stop)
        return {
            one.metric: {"items": [item.score for item in one.items], "sizes": [item.size for item in one.items]}
            for one in found
        }


def _digest(rows: Rows) -> str:
    return digest_of([[row.id, [turn.to_dict() for turn in row.messages]] for row in rows])


def _arms(made: Mapping[str, Sequence[Plain]]) -> list[Plain]:
    return [{"name": name, "rows": arms[0]["rows"], "seeds": len(arms)} for name, arms in made.items()]
