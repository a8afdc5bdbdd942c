"""What recipes keep on the embedded task, all on the same number of tokens: docs/results/keeping.md.

    python -m benchmarks.keeping           # trains and measures what is not there yet, then reads: hours of one core
    python -m benchmarks.keeping --read    # reads what is there; writes results/keeping.json and the page

Everything is `keeptune study compare sft` in one folder: an arm that is there is not made again, so blocks of recipes,
rates and seeds can be added. An arm is a recipe of the shelf at the sizes below, without commits along the way (which
do not reach the weights) and with ProMoT's gate only reporting. The format curves are runs of the same arms under a
guard that looks every few steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import keeping_page, record
from benchmarks.keeping_reading import Finished, Table, curve_of
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
SEEDS, RATES = (7, 8, 9, 10, 11), (0.3, 1.0)
PLANE = ("sft", "text_5", "promot", "replay_kl", "chats_10")
"""Of the first picture, and compared with plain tuning at equal task score."""
BLOCKS: tuple[tuple[Sequence[str], float, int], ...] = (
    (("sft", "promot", "replay_kl"), 1.0, 3),
    (("sft",), 0.3, 3),
    (("sft",), 0.0, 3),
    (("text_5", "chats_10", "text_1", "kl_text_5"), 1.0, 3),
    (("promot",), 0.0, 3),
    (("kl_chats_10", "lora"), 1.0, 3),
    (PLANE, 1.0, 5),
)
"""(arms, factor on the rate, seeds), in the order in which they are run; a factor of 0 stands for the curves."""
BOTH = ("bits_rise", "leak_gained")
CONTRASTS: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("text_1", "sft", BOTH), ("text_5", "text_1", BOTH), ("text_5", "sft", BOTH), ("kl_text_5", "sft", BOTH),
    ("chats_10", "sft", BOTH), ("kl_chats_10", "sft", BOTH), ("promot", "sft", ("target", *BOTH)),
)  # fmt: skip
"""Pairs of arms at their own rate, and what is compared: the steps of replay, and each cure with none."""
GUARD = Guard(every=2, share=0.1, items=30, budget=Budget(forget=0.95))
"""Of a curve, which ends when 95 points are lost: after that there is nothing to see."""
FOLDER = Path("runs/keeping")


def arm_file(folder: Path, name: str) -> str:
    """The recipe of an arm as a file, which the study takes by its path."""
    base, settings = ARMS[name]
    plain = load_recipe(base, [*SIZES, *settings])
    saving = [f"stages[{n}].saving.every=500" for n, stage in enumerate(plain.stages) if isinstance(stage, Train)]
    path = folder / "recipes" / f"{name}.yaml"
    make_folder(path.parent)
    text = yaml.safe_dump(load_recipe(base, [*SIZES, *settings, *saving]).to_dict(), sort_keys=False)
    atomic_write(path, text)
    return str(path.absolute())


def study(folder: Path, arms: Sequence[str], rate: float, seeds: int) -> dict[str, Any]:
    """One block, by the command's own function."""
    files = [arm_file(folder, name) for name in arms]
    choices = [f"recipes={files}", f"rates=[{rate}]", f"seeds={seeds}"]
    return run_study("compare", "sft", folder / "study", SIZES, choices)


def curve(folder: Path, name: str, seed: int, tokens: int) -> None:
    """The arm once more under a guard; its looks stand in the run's metrics."""
    recipe: Recipe = arm_recipe(load_recipe("sft", SIZES), arm_file(folder, name), tokens, 1.0, seed)
    watched = recipe.model_copy(update={"guard": GUARD})
    options = Options(fork=True, skip_base=True, command="python -m benchmarks.keeping")
    execute(watched, folder / "curves" / f"{name}-{seed}", folder, options=options)


def run(folder: Path) -> None:
    """The blocks in their order."""
    tokens = 0
    for arms, rate, seeds in BLOCKS:
        if rate:
            tokens = study(folder, arms, rate, seeds)["tokens"]
            continue
        for seed in SEEDS[:seeds]:
            for name in arms:
                curve(folder, name, seed, tokens)


def read(folder: Path) -> dict[str, Any]:
    """The record of what is there."""
    done = Finished.read(folder / "study")
    few = Table(done, done.cells(list(ARMS), RATES, SEEDS[:3]), SEEDS[:3])
    most = max(n for n in range(3, len(SEEDS) + 1) if len(done.cells(PLANE, [1.0], SEEDS[:n])) == len(PLANE))
    plane = Table(done, done.cells(PLANE, [1.0], SEEDS[:most]), SEEDS[:most])
    rates = sum(cell[0] == "sft" for cell in few.cells)  # one is a line from the base, which no run has walked
    found = {path.name: curve_of(path) for path in sorted((folder / "curves").glob("*-*"))}
    return {
        "settings": SIZES,
        "arms": {name: [base, *settings] for name, (base, settings) in ARMS.items()},
        "tokens": read_json(folder / "study" / "study.json")["tokens"],
        "base": few.base(),
        "plane": plane.rows(),
        "matched": {name: few.matched(name, "sft") for name in PLANE if name != "sft"} if rates > 1 else {},
        "differences": [
            few.difference(what, (first, 1.0), (second, 1.0))
            for first, second, whats in CONTRASTS
            if {(first, 1.0), (second, 1.0)} <= set(few.cells)
            for what in whats
        ],
        "kl_predicts": few.kl_predicts(),
        "curves": found,
        "cells": few.rows(),
    }


def main() -> int:
    """Runs what is missing, unless it is only to be read; writes the record, the page and the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--read", action="store_true")
    asked = parser.parse_args()
    if not asked.read:
        run(asked.folder)
    found = read(asked.folder)
    cells = found.pop("cells")
    record.write(
        "keeping", cells, seeds=found["plane"][0]["seeds"], **{**found, "command": "python -m benchmarks.keeping"}
    )
    keeping_page.main()
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
