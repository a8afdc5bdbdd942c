"""What a strong hand keeps and what a light one learns: the dial of replay and of the KL, on three tasks.

    python -m benchmarks.keeping_dial DATA FOLDER            # goes on where it stopped; writes its record and its page
    python -m benchmarks.keeping_dial DATA FOLDER --read     # reads what is there

DATA holds `nlu/trec_train.jsonl.gz`, which pocket was not trained on: bare questions, and the same questions with words
before them that say what is wanted. Everything is `keeptune study compare`, an arm a recipe of the shelf with one
setting turned, at its own rate, and all arms draw the same tokens. `fresh` has some of the arms, chosen by what they
did on the embedded task, on other rows of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import keeping_dial_page, record
from benchmarks.keeping import arm_file
from benchmarks.keeping_reading import Finished, Table
from keeptune.core.files import atomic_write, make_folder, read_json
from keeptune.core.machine import calm_process
from keeptune.studies._session import run_study

Arm = tuple[str, list[str]]
SIZES = ["data.task.train=120", "data.task.dev=5", "data.task.test=25", "proof.items=60"]
"""Of the embedded task, as on the plane of twice the tokens."""
TREC = """\
name: trec
seed: 7
model: {{name: pocket, dtype: auto}}
data:
  task: {{format: prompt_completion, path: {path}, prompt: {prompt}, completion: label_coarse}}
too_long: drop
split: {{dev: 0.05, test: 0.1}}
stages:
  - name: train
    method: full
    data: task
    losses: [next_token]
    optimizer: {{name: adamw, lr: 3.0e-4, schedule: linear, warmup: 0.03}}
    steps: 81
    batch_tokens: 2048
proof: {{target: {{data: task, metric: label_accuracy}}, suite: embedded, items: 60, seeds: 1}}
"""


@dataclass(frozen=True)
class Dial:
    """One setting of a recipe, turned.

    Attributes:
        recipe: of the shelf.
        name: in the pictures.
        says: what is turned, for the page.
        fixed: settings that all its places share.
        turned: the setting, with a hole for the value.
        values: from the strongest hand to the lightest.
    """

    recipe: str
    name: str
    says: str
    fixed: tuple[str, ...]
    turned: str
    values: tuple[float, ...]

    def arms(self, name: str) -> dict[str, Arm]:
        """An arm for each value."""
        return {
            f"{name}_{value:g}": (self.recipe, [*self.fixed, self.turned.format(value=value, rest=round(1 - value, 6))])
            for value in self.values
        }


@dataclass(frozen=True)
class Task:
    """Where arms are compared.

    Attributes:
        arms: of it.
        seeds: of each arm.
        draw: of the embedded task's rows.
        prompt: of TREC's rows; None: the embedded task.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (7, 8, 9)
    draw: int = 0
    prompt: str | None = None

    @property
    def sizes(self) -> list[str]:
        """Settings of the study's recipe."""
        drawn = [f"data.task.seed={self.draw}"] if self.draw else []
        return [*SIZES, *drawn] if self.prompt is None else []


KL = "stages[0].losses=[{{name: next_token, on: task}}, {{name: kl_to_base, on: replay, weight: {value:g}}}]"
SHARE = "stages[0].data={{task: {rest:g}, replay: {value:g}}}"
DIALS = {
    "keep": Dial(
        "replay_kl", "LoRA, KL on half", "the weight of the KL on the replayed half of the tokens", (), KL,
        (60, 20, 6, 2, 0.6),
    ),
    "rows": Dial(
        "instruction_replay", "full, replayed rows", "the share of the base's conversations, learned as rows", (),
        SHARE, (0.4, 0.2, 0.1, 0.05),
    ),
    "lora_rows": Dial(
        "instruction_replay", "LoRA, replayed rows", "the same share, learned by LoRA at the keep recipe's rate",
        ("stages[0].method={name: lora, rank: 16}", "stages[0].optimizer.lr=2.0e-3"), SHARE, (0.4, 0.2),
    ),
    "kl": Dial(
        "instruction_replay", "full, KL on a fifth", "the weight of the KL on conversations, a fifth of the tokens",
        ("stages[0].data={task: 0.8, replay: 0.2}",), KL, (20, 6, 2),
    ),
    "lora_kl": Dial(
        "replay_kl", "LoRA, KL on a fifth", "the weight of the KL on replay, a fifth of the tokens",
        ("stages[0].data={task: 0.8, replay: 0.2}",), KL, (20, 6, 2),
    ),
}  # fmt: skip
ARMS: dict[str, Arm] = {"sft": ("sft", [])}
for _name, _dial in DIALS.items():
    ARMS |= _dial.arms(_name)


TASKS = {
    "embedded": Task(tuple(ARMS)),
    "fresh": Task(("sft", "keep_60", "kl_6", "kl_2", "rows_0.05"), seeds=(7, 8, 9, 10, 11), draw=1),
    "trec": Task(
        ("sft", "keep_60", "keep_20", "keep_6", "keep_2", "rows_0.1", "rows_0.05", "kl_20", "kl_6", "lora_kl_20",
         "lora_kl_6"), prompt="Which kind of thing does this question ask for?\n{text}",
    ),
    "trec_bare": Task(("sft", "keep_60", "keep_20", "keep_6"), prompt="text"),
}  # fmt: skip


def run(data: Path, folder: Path, task: Task) -> None:
    """Every arm of one task."""
    make_folder(folder)
    recipe = "sft"
    if task.prompt is not None:
        recipe, path = str(folder / "trec.yaml"), (data / "nlu" / "trec_train.jsonl.gz").resolve()
        atomic_write(Path(recipe), TREC.format(path=path, prompt=json.dumps(task.prompt)))
    files = [arm_file(folder, name, task.sizes, ARMS) for name in task.arms]
    choices = [f"recipes={files}", "rates=[1]", f"seeds={len(task.seeds)}"]
    run_study("compare", recipe, folder / "study", task.sizes, choices)


def read(folder: Path, task: Task) -> dict[str, Any]:
    """What is there of one task; an arm that lacks a seed is left out."""
    done = Finished.read(folder / "study")
    table = Table(done, done.cells(task.arms, [1.0], task.seeds), task.seeds)
    held = [scores for (name, _), own in done.arms.items() if name != "sft" for scores in own.values()]
    leaks = [score for scores in held for score in scores if score.kind == "leak"]
    arm = next(folder.glob(f"study/arms/{task.arms[0]}-x1-*/result.json"))
    stage = read_json(arm)["decides"]["recipe"]["stages"][0]
    asked = [[item for item in score.items if item.prompt.rstrip().endswith("?")] for score in leaks]
    return {
        "base": table.base(), "rows": table.rows(), "steps": stage["steps"], "batch_tokens": stage["batch_tokens"],
        "questions_of_requests": len(asked[0]), "planned": task.arms,
        "leaks": {"all": sum(item.score for score in leaks for item in score.items),
                  "of_questions": sum(item.score for own in asked for item in own)},
    }  # fmt: skip


def main() -> int:
    """Runs what is missing, unless it is only to be read; writes the record, the page and the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--read", action="store_true")
    asked = parser.parse_args()
    record.without_paths(DATA=asked.data, FOLDER=asked.folder)
    if not asked.read:
        for name, task in TASKS.items():
            run(asked.data, asked.folder / name, task)
    found = {name: read(asked.folder / name, task) for name, task in TASKS.items()}
    rows = [{"task": task, **row} for task, one in found.items() for row in one.pop("rows")]
    dials = {
        name: {"name": dial.name, "says": dial.says, "recipe": dial.recipe, "values": dial.values,
               "arms": list(dial.arms(name))} for name, dial in DIALS.items()
    }  # fmt: skip
    command = "python -m benchmarks.keeping_dial DATA FOLDER"
    record.write(
        "keeping_dial", rows, seeds=list(TASKS["fresh"].seeds), tasks=found, dials=dials, arms=ARMS, command=command
    )
    keeping_dial_page.main()
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
