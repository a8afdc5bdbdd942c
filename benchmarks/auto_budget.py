"""Does `keeptune auto --budget` stay inside what may be lost, and what does the hand that it finds win?

    python -m benchmarks.auto_budget DATA FOLDER        # goes on where it stopped; writes its record and its page
    python -m benchmarks.auto_budget DATA FOLDER --read # reads what is there

DATA holds the tasks of `auto_budget_tasks`, which pocket was not trained on. Each goes through `auto` with budgets of 5
and 2 points, as a user would start it, and once more through `run` with the hand of the recipe, everything else as
`auto` had chosen it. What was lost is told by the certificate, on questions that neither choice nor guard had seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks import auto_budget_page, record
from benchmarks.auto_budget_tasks import TASKS
from keeptune.core.events import read_lines
from keeptune.core.files import read_json, write_json
from keeptune.core.machine import calm_process
from keeptune.recipes.auto import auto
from keeptune.recipes.hands import GUARD, place_of
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.run import run_recipe
from keeptune.recipes.start import SEED
from keeptune.stages.train import Train

BUDGETS = (5, 2)
"""In points."""


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run's certificate says of target and loss, and whether the guard ended it."""
    certificate = read_json(folder / "certificate.json")
    target, pooled, leak = certificate["target"], certificate["retention"]["pooled"], certificate["format"]["leak"]
    stopped = [event for event in read_lines(folder / "events.jsonl") if event["kind"] == "budget_spent"]
    return {
        "target": {key: target[key] for key in ("base", "adapted", "delta", "low", "high", "n")},
        "ability": {"delta": -pooled["delta"], "low": -pooled["high"], "high": -pooled["low"], "n": pooled["n"]},
        "leak": {key: leak[key] for key in ("delta", "low", "high", "n")},
        "verdict": certificate["verdict"],
        "stopped": bool(stopped),
    }


def measured(data: Path, name: str, budget: int, folder: Path) -> dict[str, Any]:
    """One row of the record; done before, it is read."""
    done = folder / "row.json"
    if done.exists():
        return dict(read_json(done))
    task, begun, said = TASKS[name], time.monotonic(), [f"forget={budget}pt"]
    whole = not (folder / "auto").exists()
    found = auto(
        data / f"{task.file}.jsonl.gz", output=folder / "auto", budget=said, settings=task.settings, quiet=True
    )
    took = time.monotonic() - begun
    (rate, weight), file = _held(folder / "auto" / "run" / "recipe.yaml"), folder / "auto" / "recipe.yaml"
    last = len(load_recipe(file).stages) - 1
    plain = [f"stages[{last}].optimizer.lr={rate:g}", *GUARD, *task.settings]
    run_recipe(str(file), folder / "recipe", plain, budget=said, quiet=True)
    row = {
        "task": name, "budget": budget, "seconds": round(took, 1) if whole else None, "rate": rate,
        "weight": weight, "strongest": _held(folder / "recipe" / "recipe.yaml")[1], "hands": found["hands"],
        "found": outcome(folder / "auto" / "run"), "recipe": outcome(folder / "recipe"),
    }  # fmt: skip
    write_json(done, row)
    return row


def _held(file: Path) -> tuple[float, float]:
    """Learning rate, and weight of the KL to the base."""
    recipe = load_recipe(file)
    place, stage = place_of(recipe), recipe.stages[-1]
    assert place is not None, "init wrote the keep recipe"
    assert isinstance(stage, Train)
    return stage.optimizer.lr, place[1]


def main() -> None:
    """Runs what is missing and writes record and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--read", action="store_true")
    given = parser.parse_args()
    calm_process()
    places = [(name, budget, given.folder / f"{name}-{budget}") for budget in BUDGETS for name in TASKS]
    if not given.read:
        for name, budget, folder in places:
            measured(given.data, name, budget, folder)
    rows = [read_json(folder / "row.json") for _, _, folder in places if (folder / "row.json").exists()]
    planned = [f"{name} at {budget}" for name, budget, _ in places]
    command = "python -m benchmarks.auto_budget DATA FOLDER"
    record.write("auto_budget", rows, seeds=[SEED], planned=planned, command=command)
    auto_budget_page.write()


if __name__ == "__main__":
    main()
