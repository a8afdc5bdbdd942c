"""Which recipe keeps most at equal target score: recipes by learning rates by seeds, on the same tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from keeptune.core.counting import counted
from keeptune.core.errors import DivergedError
from keeptune.core.files import atomic_write
from keeptune.core.score import Score
from keeptune.recipes.recipe import Recipe
from keeptune.report.lineup_page import lineup_page
from keeptune.studies import Plain, Study, Work
from keeptune.studies._bench import Arm, Bench, proven
from keeptune.studies._cells import grid_of, means, named, others, target_of, value_of
from keeptune.studies._lineup import arm_recipe, token_budget


class Compare(Study):
    """Every recipe at every rate, proven on the same items; read as frontiers of target against retention."""

    recipes: list[str] = Field(
        default=["sft", "lora", "replay_kl", "promot"], min_length=1, max_length=40, description="names, or files"
    )
    rates: list[float] = Field(
        default=[0.3, 1.0, 3.0], min_length=1, max_length=12, description="factors on the last stage's learning rate"
    )
    seeds: int = Field(1, ge=1, le=10, description="runs of each; five for what a document states")
    tokens: int | None = Field(None, ge=1, description="of each run; unset: what the study's own recipe draws")
    jobs: int = Field(1, ge=1, le=64, description="runs at a time, of a small model on the processor")

    def conduct(self, work: Work) -> Plain:
        """Trains and measures what is not done yet; writes `compare.html` into the study's folder.

        Raises:
            RecipeError: the recipe has no proof with a target (E-STUDY-PROOF), or an arm does not fit it.
            Interrupted: a signal came; finished arms are kept.
        """
        proven(work.recipe)
        begun = time.monotonic()
        bench = Bench(work)
        tokens = self.tokens or token_budget(work.recipe, bench.task_tokens())
        arms = [
            _arm(work.recipe, name, tokens, rate, work.recipe.seed + extra)
            for name in self.recipes
            for rate in sorted(self.rates)
            for extra in range(self.seeds)
        ]
        work.progress.say(f"{counted(len(arms), 'run')} of {tokens:,} tokens each; the base is measured first")
        base = bench.base()
        made: list[Plain] = []
        bench.arms(arms, self.jobs)
        with work.arms("comparing", len(arms)) as done:
            for arm in arms:
                made.append(bench.arm(*arm))
                done(_line(made[-1]))
        result = read(self, made, base, bench.scores, tokens)
        result["this_run_seconds"] = round(time.monotonic() - begun, 1)
        atomic_write(work.run.folder / "compare.html", lineup_page(result).encode())
        page = str(work.run.folder / "compare.html")
        return {**result, "page": page, "text": _text(result, page)}


def _arm(study: Recipe, name: str, tokens: int, rate: float, seed: int) -> Arm:
    stem = Path(name).stem
    head = {"recipe": stem, "rate": rate, "seed": seed}
    return f"{stem}-x{rate:g}-{seed}", arm_recipe(study, name, tokens, rate, seed), head


def read(study: Compare, made: Sequence[Plain], base: Sequence[Score], scores: Any, tokens: int) -> Plain:
    """What a finished grid says, as plain data."""
    whole = [(name, rate) for name in _stems(study) for rate in sorted(study.rates)]
    runs = {cell: [arm for arm in made if (arm["recipe"], arm["rate"]) == cell] for cell in whole}
    failed = [arm for arm in made if arm["failed"]]
    cells = [cell for cell in whole if all(arm["failed"] is None for arm in runs[cell])]
    found = [[scores(arm) for arm in runs[cell]] for cell in cells]
    methods = {name: [place for place, cell in enumerate(cells) if cell[0] == name] for name in _stems(study)}
    methods = {name: places for name, places in methods.items() if places}
    if not methods:
        raise DivergedError("every arm of the study diverged.", code="E-NONFINITE", fix="Lower `rates`.")
    grid = grid_of(methods, base, found)
    level = grid.common_target()
    kl = [float(np.mean([value_of(one, "kl_to_base", "task_prompts") for one in seeds])) for seeds in found]
    rows = [
        {
            "recipe": name, "rate": rate, "seeds": len(found[place]), "kl_to_base": _known(kl[place]),
            "seconds": round(sum(arm["seconds"] for arm in runs[name, rate]), 1),
            **{key: reading.to_dict() for key, reading in grid.cell(place).items()}, **others(base, found[place]),
        }
        for place, (name, rate) in enumerate(cells)
    ]  # fmt: skip
    start = target_of(base)
    return {
        "tokens": tokens, "seeds": study.seeds, "confidence": grid.confidence, "level": level,
        "base": {"target": float(grid.start_B[0]), "metric": named(start), "n": start.n, **means(base)},
        "methods": [
            {
                "recipe": name, "cells": len(places), "matched": grid.matched(name, level).to_dict(),
                "hypervolume": grid.hypervolume(name).to_dict(),
            }
            for name, places in methods.items()
        ],
        "cells": rows,
        "kl_predicts": {**(grid.rank_correlation(kl).to_dict()), "n": len(cells)} if _all_finite(kl) else None,
        "failed": [{key: arm[key] for key in ("recipe", "rate", "seed", "failed")} for arm in failed],
        "hours": round(sum(arm["seconds"] for arm in made) / 3600, 3),
    }  # fmt: skip


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _all_finite(values: Sequence[float]) -> bool:
    return len(values) > 2 and all(np.isfinite(values))


def _stems(study: Compare) -> list[str]:
    return [Path(name).stem for name in study.recipes]


def _line(arm: Plain) -> str:
    what = f"diverged: {arm['failed']}" if arm["failed"] else f"{arm['seconds']:.0f} s"
    return f"{arm['recipe']} at {arm['rate']:g} times its rate, seed {arm['seed']}: {what}"


def _text(result: Plain, page: str) -> str:
    lines = [f"kept where each first reaches {result['level']:.1%} on the target, and the area it covers (90%):"]
    for row in sorted(result["methods"], key=lambda row: -(row["hypervolume"]["value"] or 0)):
        lines.append(f"  {row['recipe']:<20} {_percent(row['matched']):<26} {_percent(row['hypervolume'])}")
    if result["kl_predicts"] and result["kl_predicts"]["value"] is not None:
        lines.append(f"rank correlation of KL to base with what was forgotten: {_plain(result['kl_predicts'])}")
    lines += [f"{one['recipe']} at {one['rate']:g}: diverged" for one in result["failed"]]
    return "\n".join(
        [
            *lines,
            f"{counted(len(result['cells']), 'cell')}, {counted(result['seeds'], 'seed')}, {result['hours']:.2f} hours",
            f"page  {page}",
        ]
    )


def _percent(reading: Mapping[str, Any]) -> str:
    if reading["value"] is None:
        return "–"
    ends = "" if reading["low"] is None else f" ({reading['low']:.1%} to {reading['high']:.1%})"
    return f"{reading['value']:.1%}{ends}"


def _plain(reading: Mapping[str, Any]) -> str:
    ends = "" if reading["low"] is None else f" ({reading['low']:.2f} to {reading['high']:.2f})"
    return f"{reading['value']:.2f}{ends}, n {reading['n']}"
