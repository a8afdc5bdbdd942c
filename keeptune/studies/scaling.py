"""What would more data buy? Nested shares of the rows by seeds, a fitted curve, and what twice the data would add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.counting import counted
from keeptune.core.errors import DivergedError
from keeptune.core.files import atomic_write
from keeptune.core.score import Score
from keeptune.data.mixing import sample_size
from keeptune.recipes.recipe import Recipe
from keeptune.report.scaling_page import gain, scaling_page
from keeptune.statistics.frontiers import Grid
from keeptune.statistics.growth import choose, twice_the_data
from keeptune.studies import Plain, Study, Work
from keeptune.studies._bench import Arm, Bench, proven
from keeptune.studies._cells import grid_of, others, target_of
from keeptune.studies._cells import named as target_name
from keeptune.studies._points import named, sampled

Share = Annotated[float, Field(gt=0, le=1)]


class Scaling(Study):
    """The recipe on nested shares of its rows, a smaller share inside every larger one; epochs stay, so steps shrink.

    Target and general ability are fitted by a + b log2(n) and by a saturating power law, whichever predicts left-out
    sizes better (`keeptune.statistics.growth`).
    """

    shares: list[Share] = Field(
        [1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0], min_length=2, max_length=12, description="of rows"
    )
    sources: list[str] = Field(default=[], description="which sources shrink; unset: the target's. All: mixed scaling")
    seeds: int = Field(3, ge=1, le=10, description="draws and runs of each share")
    jobs: int = Field(1, ge=1, le=64, description="runs at a time, of a small model on the processor")

    def conduct(self, work: Work) -> Plain:
        """Trains and measures what is not done yet; writes `scaling.html` into the study's folder.

        Raises:
            RecipeError: the recipe has no proof with a target (E-STUDY-PROOF), or does not train on a named source.
            DivergedError: a share of which no seed was trained to the end.
            Interrupted: a signal came; finished arms are kept.
        """
        proven(work.recipe)
        bench, shares = Bench(work), sorted(set(self.shares))
        target = str(getattr(work.recipe.proof and work.recipe.proof.target, "data", "task"))
        sources = self.sources or [target]
        sizes = _sizes(bench.material(work.recipe).train, sources, shares)
        work.progress.say(f"{counted(len(shares) * self.seeds, 'run')}; the base is measured first")
        base, found, seconds = bench.base(), list[list[list[Score]]](), 0.0
        seeds = range(work.recipe.seed, work.recipe.seed + self.seeds)
        arms: dict[float, list[Arm]] = {
            share: [
                (f"share-{share:.6f}-{seed}", share_recipe(work.recipe, sources, share, seed), {}) for seed in seeds
            ]
            for share in shares
        }
        bench.arms([arm for own in arms.values() for arm in own], self.jobs)
        with work.arms("scaling", len(shares) * self.seeds) as done:
            for own, size in zip(arms.values(), sizes, strict=True):
                scores = []
                for seed, (label, recipe, head) in zip(seeds, own, strict=True):
                    arm = bench.arm(label, recipe, head)
                    seconds += arm["seconds"]
                    scores += [] if arm["failed"] else [bench.scores(arm)]
                    done(f"{counted(size, 'row')}, seed {seed}: {arm['failed'] or str(round(arm['seconds'])) + ' s'}")
                found.append(scores)
        result = {**read(sizes, base, found), "sources": sources, "hours": round(seconds / 3600, 3)}
        page = work.run.folder / "scaling.html"
        atomic_write(page, scaling_page(result).encode())
        return {**result, "page": str(page), "text": _text(result, str(page))}


def share_recipe(recipe: Recipe, sources: Sequence[str], share: float, seed: int) -> Recipe:
    """The recipe with so large a share of some sources.

    Raises:
        RecipeError: no stage trains on one of them (E-STUDY-SOURCE).
    """
    small = sampled(recipe, dict.fromkeys(named(recipe, sources, key="sources"), share))
    return small.model_copy(update={"seed": seed})


def _sizes(train: Mapping[str, Any], sources: Sequence[str], shares: Sequence[float]) -> list[int]:
    """Rows of each share, over the sources."""
    rows = [
        sum(any(row.learned[1:]) or row.answer is not None for row in train[source].rows) if source in train else 0
        for source in sources
    ]
    return [sum(sample_size(count, share) for count in rows) for share in shares]


def read(sizes: Sequence[int], base: Sequence[Score], found: Sequence[Sequence[list[Score]]]) -> Plain:
    """Cells, curves and what twice the data would add, as plain data.

    Args:
        sizes: rows of each share.
        base: the base's scores.
        found: of each share, of each seed, the scores.

    Raises:
        DivergedError: a share has no seed that was trained to the end (E-NONFINITE).
    """
    fewest = min(len(seeds) for seeds in found)
    if fewest == 0:
        raise DivergedError("a share of the study diverged with every seed.", code="E-NONFINITE", fix="Lower the rate.")
    whole = [seeds[:fewest] for seeds in found]
    grid = grid_of({"recipe": range(len(sizes))}, base, whole)
    cells = [
        {"rows": size, **{key: reading.to_dict() for key, reading in grid.cell(place).items()}, **others(base, seeds)}
        for place, (size, seeds) in enumerate(zip(sizes, whole, strict=True))
    ]
    curves = {"target": _curve(sizes, grid.target_BC), "kept": _curve(sizes, 1 - grid.forgotten_BC)}
    return {"seeds": fewest, "confidence": grid.confidence, "base_target": float(grid.start_B[0]), "cells": cells,
            "curves": curves, "n": _items(grid), "metric": target_name(target_of(base))}  # fmt: skip


def _curve(sizes: Sequence[int], scores_BC: NDArray[np.float64]) -> Plain:
    """The fitted forms, and what twice the largest size would add under the better one."""
    forms = choose(sizes, scores_BC[0])
    best = forms[0]
    return {
        "form": best.form,
        "parameters": list(best.parameters),
        "held_out": {curve.form: curve.held_out for curve in forms},
        "twice": twice_the_data(best.form, list(map(float, sizes)), scores_BC),
    }


def _items(grid: Grid) -> int:
    return int(grid.target.cells_CSN.shape[2])


def _text(result: Plain, page: str) -> str:
    lines = [f"{'rows':>8}  {'target':>8}  {'kept':>8}  (base {result['base_target']:.1%})"]
    for cell in result["cells"]:
        lines.append(f"{cell['rows']:>8,}  {cell['target']['value']:>8.1%}  {1 - cell['forgotten']['value']:>8.1%}")
    for name, curve in result["curves"].items():
        lines.append(f"twice the data: {name} {gain(curve['twice'])}, by the {curve['form']} form")
    seeds, rows = counted(result["seeds"], "seed"), counted(result["n"], "test row")
    lines.append(f"{seeds}, {rows}, 90% intervals, {result['hours']:.2f} hours")
    return "\n".join([*lines, f"page  {page}"])
