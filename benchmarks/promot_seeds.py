"""Where does a seed of ProMoT that leaks get its leak from: its prompt, or the order in which its weights learn?

    python -m benchmarks.promot_seeds FOLDER            # goes on where it stopped; writes its record and its page
    python -m benchmarks.promot_seeds FOLDER --quick    # two prompts, few steps; prints

Five prompts of the first stage, each followed by the second stage in the order of its own seed, at the sizes of
`benchmarks.keeping --plane`; then the prompt that leaks most and the one that leaks least change orders. The leak is
read on unrelated requests of another draw of the suite than the proof's. Beside it stand figures that a gate could read
after the first stage, on dev rows and these requests (`benchmarks.promot_gate`). All of this was fixed before any of it
was run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import record
from benchmarks.keeping import LARGE, arm_file
from benchmarks.promot_gate import told
from benchmarks.promot_page import page, rows
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import atomic_write, make_folder, read_json
from keeptune.core.machine import calm_process
from keeptune.core.run import Run
from keeptune.evaluations import Context
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.target import Target
from keeptune.pocket.suite import build_suite
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.material import Material, gather
from keeptune.recipes.measuring import context_of
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages import StageWork
from keeptune.stages._progress import Progress
from keeptune.studies import Plain, Work
from keeptune.studies._lineup import arm_recipe

SEEDS = (7, 8, 9, 10, 11)
TOKENS = 166_782
"""Of both stages, as in `benchmarks.keeping --plane`."""
REQUESTS, DRAW = 200, 1
"""Unrelated requests, and the seed of their draw; a proof draws with 0."""
PAGE = Path(__file__).parent.parent / "docs" / "results" / "promot_seeds.md"
QUIET = Progress(quiet=True)


@dataclass
class Cross:
    """What every run shares.

    Attributes:
        work: folder, base and what is done.
        material: rows, the same for every seed.
        context: dev rows and requests.
        sizes: settings of the recipe.
        tokens: of both stages.
    """

    work: Work
    material: Material
    context: Context
    sizes: list[str]
    tokens: int

    def recipe(self, seed: int) -> Recipe:
        """ProMoT with a seed."""
        file = arm_file(self.work.run.folder, "promot", self.sizes)
        return arm_recipe(self.work.recipe, file, self.tokens, 1.0, seed)

    def prompt(self, seed: int) -> Checkpoint:
        """The first stage alone."""
        whole, folder = self.recipe(seed), self.work.run.folder / "prompts" / str(seed)
        first = whole.model_copy(update={"stages": whole.stages[:1]})
        options = Options(fork=True, skip_base=True, command="python -m benchmarks.promot_seeds")
        execute(first, folder, options=options, progress=QUIET, workshop=self.work.workshop, material=self.material)
        return Checkpoint.from_dict(read_json(folder / "checkpoint.json"), relative_to=folder)

    def gated(self, seed: int) -> Plain:
        """What a gate could read of a prompt."""
        whole = self.recipe(seed)
        return self.work.once(
            f"gate-{seed}", whole.to_dict(), lambda: told(self.prompt(seed), self.context, self.material)
        )

    def leak(self, prompt: int, order: int) -> Plain:
        """Leak and dev accuracy after the second stage behind one prompt, in one order."""
        whole = self.recipe(order)

        def make() -> Plain:
            with Run.open(self.work.run.folder / "seconds" / f"{prompt}-{order}", fork=True) as run:
                work = StageWork(
                    run=run, folder=run.stage_folder(0, "relation"), index=0, seed=order, data=self.material.train,
                    base=whole.model.checkpoint, open=self.work.workshop.open, progress=QUIET,
                )  # fmt: skip
                made = whole.stages[-1].run(self.prompt(prompt), work)
            (leak,) = FormatDrift(data="task").measure(made, self.context)
            (dev,) = Target(data="task", metric="label_accuracy", split="dev").measure(made, self.context)
            return {"prompt": prompt, "order": order, "leak": leak.value, "dev": dev.value}

        return self.work.once(f"second-{prompt}-{order}", [whole.to_dict(), prompt], make)


def cross(folder: Path, sizes: list[str], tokens: int, requests: int) -> Cross:
    """Reads the rows and draws the requests."""
    make_folder(folder)
    recipe = load_recipe("sft", sizes)
    work = Work(Run.open(folder), recipe, None, Workshop(trusted=folder.absolute()))
    base = recipe.model.checkpoint
    material = replace(gather(recipe, None, work.workshop, base, QUIET), dev=None)
    suite = replace(build_suite(seed=DRAW, size=50, documents=1, instructions=requests), tasks=(), corpora=())
    context = replace(context_of(recipe, work.workshop, material, base, None), suite=suite, cache=None)
    return Cross(work, material, context, sizes, tokens)


def main() -> None:
    """Runs what is missing; writes the record and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    record.without_paths(FOLDER=given.folder)
    calm_process()
    seeds, tokens = (SEEDS[:2], 12_000) if given.quick else (SEEDS, TOKENS)
    own = cross(given.folder.absolute(), list(LARGE.sizes), tokens, 20 if given.quick else REQUESTS)
    gates, cells = [], []
    for seed in seeds:
        gates.append({"prompt": seed, **own.gated(seed)})
        cells.append(own.leak(seed, seed))
        print(json.dumps([gates[-1], cells[-1]]), flush=True)
    most, least = (choose(cells, key=lambda cell: cell["leak"])["prompt"] for choose in (max, min))
    for prompt, order in ((most, least), (least, most)):
        cells.append(own.leak(prompt, order))
        print(json.dumps(cells[-1]), flush=True)
    if given.quick:
        return
    found = {"tokens": tokens, "requests": REQUESTS, "dev_rows": len(own.context.rows("task", "dev")), "gates": gates}
    made = record.write("promot_seeds", rows(cells, gates), seeds=seeds, cells=cells, **found)
    atomic_write(PAGE, page(made))


if __name__ == "__main__":
    main()
