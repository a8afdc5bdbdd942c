"""Does choosing rows beat drawing them? Selectors against random draws of the same size, all rows as the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from random import Random as Draw
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.example import Example
from keeptune.core.files import atomic_write
from keeptune.core.usage import hours_of
from keeptune.recipes.material import Material, fitted, gather
from keeptune.report.selection_table import selection_text
from keeptune.selectors import Context, Selector
from keeptune.selectors._appraisal import Appraiser
from keeptune.selectors.encoders import Encoder
from keeptune.selectors.random import Random
from keeptune.statistics.against_draws import FEWEST_DRAWS, against_draws
from keeptune.studies import Plain, Study, Work
from keeptune.studies._arms import identity, scored, subset, target_of, trained

LEVEL = 0.9
NAMES = ("kcenter", "facility_location", "rds", "ifd")
Share = Annotated[float, Field(gt=0, lt=1)]


class Selection(Study):
    """Trains the recipe on shares of its task's rows: {shares} x {random with several seeds, selectors}, and on all.

    Every arm has the recipe's settings, so that `steps` in the recipe makes arms equal in tokens and `epochs` makes
    them equal in passes. Random draw j is drawn and trained with seed + j, a selector's rows with the recipe's seed.
    Queries (`rds`) are dev rows; nothing looks at test rows but the score. Each selector is held against the draws of
    its share: `keeptune.statistics.against_draws`, two-sided 90%, and at 90% for all comparisons together (Bonferroni).
    A selector that the base cannot serve, such as `ifd` on an encoder, is named with the reason and left out.
    """

    shares: list[Share] = Field([0.005, 0.05, 0.2], min_length=1, max_length=10, description="of the training rows")
    selectors: list[Selector] = Field(
        default_factory=lambda: [Selector.find(name)() for name in NAMES], min_length=1, description="beside random"
    )
    seeds: int = Field(5, ge=FEWEST_DRAWS, le=50, description="random draws of each share")
    queries: int = Field(50, ge=1, description="dev rows that stand for the task")
    encoder: Encoder | None = Field(None, description="of the rows; unset: each selector's own pooling of the base")

    def conduct(self, work: Work) -> Plain:
        """Arms that are not done, then the tables: `selection.md` in the study's folder."""
        grid = Grid(self, work)
        plan: list[tuple[str, float, Selector | None, int]] = [("all", 1.0, None, 0)]
        plan += [
            (f"{choice.name}-{share:g}-{seed}", share, choice, seed)
            for share in self.shares
            for choice in (Random(), *self.selectors)
            for seed in range(self.seeds if isinstance(choice, Random) else 1)
        ]
        arms: list[Plain] = []
        refused: dict[str, str] = {}
        with work.arms("arms", len(plan)) as done:
            for name, share, choice, seed in plan:
                try:
                    arms.append(grid.arm(name, share, choice, seed))
                except PlanError as error:
                    if choice is None or error.code != "E-SELECT-MODEL":
                        raise
                    refused[choice.name] = f"it cannot read a model of the kind '{grid.kind}'"
                    done(f"{name}: {error.what}")
                else:
                    done(f"{name}: {counted(arms[-1]['rows'], 'row')}, {arms[-1]['score']:.4f}")
        result = {**grid.about(arms[0]), "level": LEVEL, "arms": arms, "comparisons": self._comparisons(arms),
                  "refused": refused, "hours": hours_of(arms)}  # fmt: skip
        page = work.run.folder / "selection.md"
        atomic_write(page, selection_text(result))
        slim = [{key: value for key, value in arm.items() if key not in ("items", "sizes")} for arm in arms]
        return {**result, "arms": slim, "page": str(page), "text": f"{selection_text(result)}\npage  {page}"}

    def _comparisons(self, arms: Sequence[Plain]) -> list[Plain]:
        """Each selector against the draws of its share."""
        sizes, higher = arms[0]["sizes"], arms[0]["higher_is_better"]
        strict = 1 - (1 - LEVEL) / max(1, sum(arm["by"] not in ("all", "random") for arm in arms))
        found = []
        for share in self.shares:
            here = [arm for arm in arms if arm["share"] == share]
            draws = [arm["items"] for arm in here if arm["by"] == "random"]
            for arm in (arm for arm in here if arm["by"] != "random"):
                one = against_draws(arm["items"], draws, sizes, LEVEL)
                joint = against_draws(arm["items"], draws, sizes, strict)
                better, worse = joint.low > 0, joint.high < 0
                if not higher:
                    better, worse = worse, better
                verdict = "better" if better else "worse" if worse else "no difference shown"
                found.append({"by": arm["by"], "share": share, **one._asdict(), "verdict": verdict})
        return found


class Grid:
    """The arms of one study, with what they share."""

    def __init__(self, study: Selection, work: Work) -> None:
        self.study, self.work, self.recipe = study, work, work.recipe
        target_of(self.recipe)
        base = self.recipe.model.checkpoint
        self.material: Material = gather(self.recipe, work.recipe_folder, work.workshop, base, work.progress)
        self.recipe = fitted(self.recipe, self.material)  # a head has the labels of all rows, not those of an arm
        if self.material.target not in self.material.train:
            raise RecipeError(
                "no stage trains on the source that is measured, so there is nothing to choose from.",
                code="E-STUDY-TARGET", where={"key": "proof.target.data"}, fix="Train on it, or measure another one.",
            )  # fmt: skip
        self.source = self.material.sources[str(self.material.target)]
        self.examples: Sequence[Example] = self.source.train
        self.vectors: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def arm(self, name: str, share: float, choice: Selector | None, seed: int) -> Plain:
        """Chooses, trains and scores, unless that was done before."""
        sized = choice.model_copy(update={"share": share, "rows": None}) if choice else None
        single = self.recipe.model_copy(update={"seed": self.recipe.seed + seed})
        decides = [
            self.study.queries, self.study.encoder.to_dict() if self.study.encoder else None,
            sized.to_dict() if sized else None, identity(self.work, single, self.material),
        ]  # fmt: skip

        def make() -> Plain:
            indices = list(range(len(self.examples)))
            if sized is not None:
                indices = list(map(int, sized.select(self.examples, self._context(sized, single.seed)).indices))
            chosen = self.material
            if sized is not None:
                chosen = subset(self.work, single, self.material, self.source.name, indices)
            checkpoint = trained(self.work, single, chosen, self.work.folder(name) / "run")
            tokens = sum(len(row.tokens) for row in chosen.train[self.source.name].rows)
            looks = self._appraiser(indices)
            return {"rows": len(indices), "tokens": tokens, "looks": looks, **self._score(checkpoint)}

        about = {"name": name, "by": choice.name if choice else "all", "share": share, "seed": single.seed}
        return {**about, **self.work.once(name, decides, make)}

    def about(self, whole: Plain) -> Plain:
        """What the tables say above themselves; `whole` is the arm of all rows."""
        target = target_of(self.recipe)
        stage = self.recipe.stages[-1].to_dict()
        return {
            "recipe": self.recipe.name, "model": self.recipe.model.name, "metric": target.metric, "n": whole["n"],
            "higher_is_better": whole["higher_is_better"], "rows": len(self.examples),
            "queries": min(self.study.queries, len(self.source.dev)), "seeds": self.study.seeds,
            "length": {key: stage[key] for key in ("steps", "epochs", "batch_tokens") if stage.get(key)},
            "methods": [method.name for method in getattr(self.recipe.stages[-1], "methods", [])],
        }  # fmt: skip

    def _score(self, checkpoint: Checkpoint) -> Plain:
        found = scored(self.work, checkpoint, self.material)
        return {
            "score": found.value, "n": found.n, "higher_is_better": found.higher_is_better,
            "items": [item.score for item in found.items], "sizes": [item.size for item in found.items],
        }  # fmt: skip

    @property
    def kind(self) -> str:
        """Of the base: `decoder`, `encoder`, ..."""
        return str(self.work.workshop.shared(self.recipe.model.checkpoint).anatomy.kind)

    @cached_property
    def queries(self) -> list[Example]:
        """Dev rows; a selector that needs some and finds none says so."""
        rows = list(self.source.dev)
        return Draw(f"{self.recipe.seed}|queries").sample(rows, min(self.study.queries, len(rows)))

    def _context(self, choice: Selector, seed: int) -> Context:
        loaded = self.work.workshop.shared(self.recipe.model.checkpoint)
        own, asked = self._encoded(choice.pooling)
        return Context(seed, own, self.queries, asked if self.queries else None, loaded, self._store())

    def _appraiser(self, indices: Sequence[int]) -> dict[str, Any]:
        return Appraiser(self.examples, *self._encoded("mean"))(indices)._asdict()

    def _encoded(self, pooling: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        encoder: Encoder = self.study.encoder or Encoder.find(pooling)()
        if encoder.name not in self.vectors:
            loaded = self.work.workshop.shared(self.recipe.model.checkpoint)
            context = Context(self.recipe.seed, model=loaded, store=self._store())
            found = encoder.encode([*self.examples, *self.queries], context)
            self.vectors[encoder.name] = found[: len(self.examples)], found[len(self.examples) :]
        return self.vectors[encoder.name]

    @staticmethod
    def _store() -> Any:
        from keeptune.models.tensor_store import TensorStore

        return TensorStore(cache_folder() / "features")
