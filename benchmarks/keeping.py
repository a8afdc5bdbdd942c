"""What recipes keep on the embedded task, all on the same number of tokens: docs/results/keeping.md.

    python -m benchmarks.keeping            # trains and measures what is not there yet, then reads: hours of one core
    python -m benchmarks.keeping --plane    # the same on twice the tokens, for recipes that share theirs
    python -m benchmarks.keeping --read     # reads what is there; writes the record and the page; also with --plane

Everything is `keeptune study compare sft` in one folder: an arm that is there is not made again, so blocks of recipes,
rates and seeds can be added. An arm is a recipe of the shelf at the sizes below, without commits along the way (which
do not reach the weights) and with ProMoT's gate only reporting. The format curves are runs of the same arms under a
guard that looks every few steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import keeping_page, record
from benchmarks.keeping_reading import Finished, Table, curve_of, gates_of
from keeptune.core.files import atomic_write, make_folder, read_json
from keeptune.core.machine import calm_process
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.stages._guard import Budget, Guard
from keeptune.stages.train import Train
from keeptune.studies._lineup import arm_recipe
from keeptune.studies._session import run_study

SIZES = ["data.task.train=60", "data.task.dev=5", "data.task.test=25", "proof.items=60"]
KL = "stages[0].losses=[{name: next_token, on: task}, {name: kl_to_base, on: replay, weight: 60}]"
"""At the weight of the keep recipe."""
ARMS: dict[str, tuple[str, list[str]]] = {
    "sft": ("sft", []),
    "lora": ("lora", []),
    "promot": ("promot", ["stages[1].action=report"]),
    "replay_kl": ("replay_kl", []),
    "text_1": ("text_replay", ["stages[0].data={task: 0.99, replay: 0.01}"]),
    "text_5": ("text_replay", []),
    "kl_text_5": ("text_replay", [KL]),
    "chats_10": ("instruction_replay", []),
    "kl_chats_10": ("instruction_replay", [KL]),
}
"""Recipe of the shelf and settings of each arm."""
SEEDS, FEWEST_SEEDS = (7, 8, 9, 10, 11), 3
PLANE = ("sft", "text_5", "promot", "replay_kl", "chats_10")
"""Of the first picture, and compared with plain tuning at equal task score."""
Block = tuple[Sequence[str], float, int]
"""Arms, factor on the rate, seeds; a factor of 0 stands for the curves."""


@dataclass(frozen=True)
class Plan:
    """What is run on one number of tokens.

    Attributes:
        record: its name, and that of its folder.
        sizes: of the task and of the proof.
        plane: arms of its picture, compared with plain tuning at equal task score.
        rates: factors that stand on a path.
        looks: steps between two looks of a curve.
        blocks: in the order in which they are run.
    """

    record: str
    sizes: Sequence[str]
    plane: Sequence[str]
    rates: Sequence[float]
    looks: int
    blocks: Sequence[Block]


SMALL = Plan(
    "keeping",
    SIZES,
    PLANE,
    (0.3, 1.0),
    2,
    (
        (("sft", "promot", "replay_kl"), 1.0, 3),
        (("sft",), 0.3, 3),
        (("sft",), 0.0, 3),
        (("text_5", "chats_10", "text_1", "kl_text_5"), 1.0, 3),
        (("promot",), 0.0, 3),
        (("kl_chats_10", "lora"), 1.0, 3),
        (PLANE, 1.0, 5),
    ),
)
SHARING = ("sft", "promot", "replay_kl", "chats_10")
LARGE = Plan(
    "keeping_plane",
    ["data.task.train=120", *SIZES[1:]],
    SHARING,
    (0.1, 0.3, 1.0),
    4,
    (
        (SHARING[:3], 1.0, 3),
        (("sft",), 0.3, 3),
        (("sft",), 0.1, 3),
        (("promot", "sft"), 0.0, 1),
        (SHARING[:3], 1.0, 5),
        (("sft",), 0.3, 5),
        (("sft",), 0.1, 5),
        (("promot", "sft"), 0.0, 3),
        (("chats_10",), 1.0, 5),
    ),
)
"""Twice the tokens, and low rates of plain tuning, so that an equal score lies between points that were measured."""
BOTH = ("bits_rise", "leak_gained")
CONTRASTS: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("text_1", "sft", BOTH), ("text_5", "text_1", BOTH), ("text_5", "sft", BOTH), ("kl_text_5", "sft", BOTH),
    ("chats_10", "sft", BOTH), ("kl_chats_10", "sft", BOTH), ("promot", "sft", ("target", *BOTH)),
)  # fmt: skip
"""Pairs of arms at their own rate, and what is compared: the steps of replay, and each cure with none."""
GUARD = Guard(share=0.1, items=30, budget=Budget(forget=0.95))
"""Of a curve, which ends when 95 points are lost: after that there is nothing to see."""
FOLDER = Path("runs")


def arm_file(folder: Path, name: str, sizes: Sequence[str], arms: Mapping[str, tuple[str, list[str]]] = ARMS) -> str:
    """The recipe of an arm as a file, which the study takes by its path."""
    base, settings = arms[name]
    plain = load_recipe(base, [*sizes, *settings])
    saving = [f"stages[{n}].saving.every=500" for n, stage in enumerate(plain.stages) if isinstance(stage, Train)]
    path = folder / "recipes" / f"{name}.yaml"
    make_folder(path.parent)
    text = yaml.safe_dump(load_recipe(base, [*sizes, *settings, *saving]).to_dict(), sort_keys=False)
    atomic_write(path, text)
    return str(path.absolute())


def study(folder: Path, sizes: Sequence[str], block: Block) -> dict[str, Any]:
    """One block, by the command's own function."""
    arms, rate, seeds = block
    files = [arm_file(folder, name, sizes) for name in arms]
    choices = [f"recipes={files}", f"rates=[{rate}]", f"seeds={seeds}"]
    return run_study("compare", "sft", folder / "study", sizes, choices)


def curve(folder: Path, plan: Plan, name: str, seed: int, tokens: int) -> None:
    """The arm once more under a guard; its looks stand in the run's metrics."""
    file = arm_file(folder, name, plan.sizes)
    recipe: Recipe = arm_recipe(load_recipe("sft", list(plan.sizes)), file, tokens, 1.0, seed)
    watched = recipe.model_copy(update={"guard": GUARD.model_copy(update={"every": plan.looks})})
    options = Options(fork=True, skip_base=True, command="python -m benchmarks.keeping")
    execute(watched, folder / "curves" / f"{name}-{seed}", folder, options=options)


def run(folder: Path, plan: Plan) -> None:
    """The blocks in their order."""
    tokens = 0
    for block in plan.blocks:
        arms, rate, seeds = block
        if rate:
            tokens = study(folder, plan.sizes, block)["tokens"]
            continue
        for seed in SEEDS[:seeds]:
            for name in arms:
                curve(folder, plan, name, seed, tokens)


def read(folder: Path, plan: Plan) -> dict[str, Any]:
    """The record of what is there; a comparison rests on as many seeds as all of its arms have."""
    done = Finished.read(folder / "study")
    arms = [name for name in plan.plane if done.seeds([(name, 1.0)], SEEDS) >= FEWEST_SEEDS]
    path = [("sft", rate) for rate in plan.rates if done.seeds([("sft", rate)], SEEDS) >= FEWEST_SEEDS]
    shared = done.seeds([*path, *((name, 1.0) for name in arms)], SEEDS)
    table = Table(done, done.cells(list(ARMS), plan.rates, SEEDS[:shared]), SEEDS[:shared])
    runs = [path.parent for path in sorted((folder / "curves").glob("*/checkpoint.json"))]  # which ends a run
    found = {path.name: curve_of(path) for path in runs}
    return {
        "settings": plan.sizes,
        "arms": {name: [base, *settings] for name, (base, settings) in ARMS.items()},
        "tokens": read_json(folder / "study" / "study.json")["tokens"],
        "stretched": True,
        "base": table.base(),
        "missing": missing(plan, done, found),
        "plane": [row for name in arms for row in done.alone((name, 1.0), SEEDS)],
        "matched": {name: table.matched(name, "sft") for name in arms if name != "sft"} if len(path) > 1 else {},
        "differences": [
            table.difference(what, (first, 1.0), (second, 1.0))
            for first, second, whats in CONTRASTS
            if {(first, 1.0), (second, 1.0)} <= set(table.cells)
            for what in whats
        ],
        "kl_predicts": table.kl_predicts(),
        "gates": gates_of(folder / "study", "promot", SEEDS[: done.seeds([("promot", 1.0)], SEEDS)]),
        "looks": plan.looks,
        "curves": found,
        "cells": table.rows(),
    }


def missing(plan: Plan, done: Finished, curves: Mapping[str, Any]) -> list[str]:
    """What the plan has and was not run, in words."""
    wanted: dict[tuple[str, float], int] = {}
    for arms, rate, seeds in plan.blocks:
        wanted |= {(name, rate): max(seeds, wanted.get((name, rate), 0)) for name in arms}
    words = []
    for (name, rate), seeds in wanted.items():
        there = done.arms.get((name, rate), {}) if rate else [seed for seed in SEEDS if f"{name}-{seed}" in curves]
        left = [str(seed) for seed in SEEDS[:seeds] if seed not in there]
        what = f"`{name}` at {rate:g} times its rate" if rate else f"the curve of `{name}`"
        words += [f"{what}, {'seeds' if len(left) > 1 else 'seed'} {', '.join(left)}"] if left else []
    return words


def main() -> int:
    """Runs what is missing, unless it is only to be read; writes the record, the page and the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--plane", action="store_true", help="the larger plan")
    parser.add_argument("--read", action="store_true")
    asked = parser.parse_args()
    plan = LARGE if asked.plane else SMALL
    folder = asked.folder or FOLDER / plan.record
    if not asked.read:
        run(folder, plan)
    found = read(folder, plan)
    cells = found.pop("cells")
    command = f"python -m benchmarks.keeping{' --plane' * asked.plane}"
    record.write(plan.record, cells, seeds=cells[0]["seeds"], **{**found, "command": command})
    keeping_page.main()
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
