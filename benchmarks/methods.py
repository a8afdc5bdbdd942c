"""Every method on the embedded model and task: what it gains, what it loses, what it costs.

    python -m benchmarks.methods                       # goes on where it stopped; writes docs/methods.md as it goes
    python -m benchmarks.methods --methods lora,ia3    # some of them

For each method its own recipe is trained with three rates (a third of the recipe's, the recipe's, three times it) on
the first seed; the rate with the best label accuracy on dev is kept, and trained with the other seeds. Test rows and
the retention suite are looked at once per seed, with the chosen rate. Seeds come last, so that a table that was
stopped early has every method with fewer seeds. Every cell is a run folder of its own under `--output` and a process of
its own; a killed one goes on from its last commit. A method without cells there keeps its row of the record, if that
was measured on such a machine with the same seeds and sizes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import methods_table
from benchmarks.record import RESULTS, machine, write
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import read_json, write_json
from keeptune.core.run import Run
from keeptune.core.score import Score
from keeptune.core.usage import measured
from keeptune.evaluations import Context
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.target import Target
from keeptune.recipes.material import Material, fitted, gather
from keeptune.recipes.measuring import context_of
from keeptune.recipes.provenance import trained_parameters
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages import StageWork
from keeptune.stages._progress import Progress
from keeptune.stages.prove import certify
from keeptune.stages.train import Train

SEEDS = (7, 8, 9)
RATES = (1 / 3, 1.0, 3.0)
SIZES = {"data.task.train": 25, "data.task.dev": 10, "data.task.test": 20, "proof.items": 60}
SAME = ["stages[0].epochs=2", "stages[0].batch_tokens=1024"]
METHODS: dict[str, tuple[str, list[str]]] = {
    "full": ("sft", []),
    "freeze": ("sft", ["stages[0].method=freeze"]),
    "norm": ("bitfit", ["stages[0].method=norm"]),
    "lora_pissa": ("lora", ["stages[0].method.init=pissa"]),
    "spottune_compact": ("spottune", ["stages[0].method.compact=3"]),
    "peft_vera": ("bitfit", ["stages[0].method={name: peft, type: vera, settings: {r: 64}}"]),
}
"""Recipe and settings of the rows that are not simply the recipe of their name."""
Job = tuple[str, float, int, bool]
"""Method, factor on the rate, seed, and whether it is looked at for good."""
OWN = (
    "lora", "dora", "adalora", "ia3", "bitfit", "bottleneck", "parallel", "prefix", "p_tuning_v2", "mam", "prompt",
    "p_tuning", "spottune", "head",
)  # fmt: skip
ORDER = ("full", "lora", "spottune", *(name for name in OWN if name not in ("lora", "spottune")), *list(METHODS)[1:])


@dataclass(frozen=True)
class Bench:
    """What all cells share: the base, the data, the base's scores.

    Attributes:
        folder: of all cells.
    """

    folder: Path
    workshop: Workshop
    material: Material
    context: Context
    base: Sequence[Score]

    def train(self, recipe: Recipe, folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
        """The checkpoint that the recipe's one stage makes, and what it cost."""
        recipe = fitted(recipe, self.material)
        stage = recipe.stages[0]
        processor = time.process_time()
        with measured() as usage, Run.open(folder) as run:
            work = StageWork(
                run=run,
                folder=run.stage_folder(0, stage.label),
                index=0,
                seed=recipe.seed,
                data=self.material.train,
                open=self.workshop.open,
                progress=Progress(quiet=True),
            )
            checkpoint = stage.run(recipe.model.checkpoint, work)
        path = Path(checkpoint.base) if not checkpoint.adapters else checkpoint.adapters[-1].path
        count, share = trained_parameters(recipe, self.workshop.shared(recipe.model.checkpoint))
        return checkpoint, {
            "seconds": round(usage.seconds, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "peak_bytes": usage.peak_bytes,
            "stored_bytes": sum(file.stat().st_size for file in path.glob("*.safetensors")),
            "trainable_parameters": count,
            "trainable_share": share,
        }

    def cell(self, name: str, factor: float, seed: int, final: bool) -> None:
        """Trains one method at one rate with one seed, looks at dev, or for good at test and the suite."""
        recipe = recipe_of(name, factor, seed)
        path = cell_path(self.folder, name, factor, seed)
        checkpoint, found = self.train(recipe, path)
        if not final:
            dev = Target(data="task", metric="label_accuracy", split="dev").measure(checkpoint, self.context)
            write_json(path / "dev.json", {**found, "dev": dev[0].value, "n": dev[0].n})
            return
        context = replace(self.context, seed=seed)
        scores = [*recipe_target(recipe).measure(checkpoint, context), *Retention().measure(checkpoint, context)]
        certificate = certify(self.base, scores, seeds=[seed], deployment=checkpoint.deployment)
        retention = certificate["retention"]
        kept = {
            "target": short(certificate["target"]),
            "retention": {
                "pooled": short(retention["pooled"]),
                **{part["name"]: round(part["delta"], 4) for part in (*retention["tasks"], *retention["corpora"])},
            },
            "deployment": certificate["deployment"],
        }
        before = read_json(path / "dev.json") if (path / "dev.json").exists() else found
        write_json(path / "final.json", {**before, **kept})


def short(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says of a comparison."""
    return {key: part[key] for key in ("base", "adapted", "delta", "low", "high", "n", "verdict")}


def prepared(folder: Path) -> Bench:
    """Reads the data, loads the base and scores it."""
    recipe = recipe_of("lora", 1.0, SEEDS[0])
    workshop, base = Workshop(trusted=folder.absolute()), recipe.model.checkpoint
    material = gather(recipe, None, workshop, base, Progress(quiet=True))
    context = context_of(recipe, workshop, material, base, None)
    scores = [*recipe_target(recipe).measure(base, context), *Retention().measure(base, context)]
    return Bench(folder.absolute(), workshop, material, context, scores)


def recipe_of(name: str, factor: float, seed: int) -> Recipe:
    """The recipe of a row at a rate and a seed."""
    base, settings = METHODS.get(name, (name, []))
    rate = stage_of(load_recipe(base)).optimizer.lr * factor
    sizes = [f"{key}={value}" for key, value in SIZES.items()]
    return load_recipe(base, [*settings, *sizes, *SAME, f"seed={seed}", f"stages[0].optimizer.lr={rate:.3e}"])


def stage_of(recipe: Recipe) -> Train:
    """The one stage of a recipe here."""
    (stage,) = recipe.stages
    assert isinstance(stage, Train)
    return stage


def recipe_target(recipe: Recipe) -> Target:
    """The target of the recipe's proof."""
    assert recipe.proof is not None
    assert isinstance(recipe.proof.target, Target)
    return recipe.proof.target


def cell_path(folder: Path, name: str, factor: float, seed: int) -> Path:
    """The run folder of a cell."""
    return folder / name / f"rate-{factor:.2f}" / str(seed)


def chosen(folder: Path, name: str) -> float | None:
    """The factor whose model answers most dev rows right; the smaller one of equals; None before all were tried."""
    paths = {factor: cell_path(folder, name, factor, SEEDS[0]) / "dev.json" for factor in RATES}
    if not all(path.exists() for path in paths.values()):
        return None
    return max(RATES, key=lambda factor: (read_json(paths[factor])["dev"], -factor))


def jobs(folder: Path, names: Sequence[str]) -> Iterator[Job]:
    """What is left to do, first seeds first; asked anew after each cell."""
    for seed in SEEDS:
        for name in names:
            if seed == SEEDS[0]:
                for factor in RATES:
                    if not (cell_path(folder, name, factor, seed) / "dev.json").exists():
                        yield name, factor, seed, False
            best = chosen(folder, name)
            if best is not None and not (cell_path(folder, name, best, seed) / "final.json").exists():
                yield name, best, seed, True


def report(folder: Path) -> None:
    """The JSON, the table and the picture of everything that is there."""
    rows, known = [], recorded()
    for name in ORDER:
        best = chosen(folder, name)
        paths = [] if best is None else [cell_path(folder, name, best, seed) / "final.json" for seed in SEEDS]
        finals = {path.parent.name: read_json(path) for path in paths if path.exists()}
        if best is None or not finals:
            rows += [known[name]] if name in known else []
            continue
        rates = {factor: stage_of(recipe_of(name, factor, SEEDS[0])).optimizer.lr for factor in RATES}
        dev = {
            f"{rate:.1e}": read_json(cell_path(folder, name, factor, SEEDS[0]) / "dev.json")["dev"]
            for factor, rate in rates.items()
        }
        (method,) = stage_of(recipe_of(name, best, SEEDS[0])).methods
        abilities = {"merges": method.merges, "detachable": method.detachable}
        rows.append({"method": name, "rate": rates[best], "dev": dev, **abilities, "seeds": finals})
    write("methods", rows, seeds=SEEDS, sizes=SIZES, training=SAME)
    methods_table.main()


def recorded() -> dict[str, dict[str, Any]]:
    """The rows of the last record by their method; none, where it was measured otherwise."""
    path = RESULTS / "methods.json"
    last = read_json(path) if path.exists() else {}
    alike = {"machine": machine(), "seeds": list(SEEDS), "sizes": SIZES, "training": SAME}
    same = all(last.get(key) == value for key, value in alike.items())
    return {row["method"]: row for row in last["rows"]} if same else {}


def main() -> None:
    """Runs what is left, one cell in a process of its own at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(ORDER))
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--at-once", type=int, default=1, help="cells at a time; more disturb `seconds`")
    given = parser.parse_args()
    names = given.methods.split(",")
    bench = prepared(given.output)
    failed: set[str] = set()
    running: dict[Job, Any] = {}
    while True:
        left = [job for job in jobs(bench.folder, names) if job[0] not in failed and job not in running]
        while left and len(running) < given.at_once:
            job = left.pop(0)
            running[job] = multiprocessing.get_context("fork").Process(target=bench.cell, args=job)
            running[job].start()
        if not running:
            break
        multiprocessing.connection.wait([child.sentinel for child in running.values()])
        for job in [job for job, child in running.items() if not child.is_alive()]:
            code = running.pop(job).exitcode
            print(
                json.dumps(dict(zip(("method", "factor", "seed", "final"), job, strict=True))), "exit", code, flush=True
            )
            if code:
                failed.add(job[0])
            elif job[-1]:
                report(bench.folder)
    if failed:
        raise SystemExit(f"these failed and are missing: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
