"""Does choosing rows beat drawing them with pocket? `keeptune study selection` on three data sets.

    python -m benchmarks.selection_texts DATA FOLDER     # goes on where it stopped
    python scripts/selection_page.py FOLDER/*/study      # its tables into docs/selection.md

DATA holds `nlu/banking77_train`, `nlu/clinc150_small` and `instructions/dolly_4k`. Requests with their intent are
learned by a linear head on the mean of the last states: half of BANKING77's training rows, and the 150 intents of
CLINC150 without what is out of scope, of whose test rows every second is measured and of whose others every twelfth
serves as a query, 200 at most. Dolly's rows of at most 400 letters are learned by LoRA, and measured by the loss of
held-out answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.instructions import Row, read, single_turns
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.studies._session import run_study

LETTERS, QUERIES = 400, 200
HEAD = "method: {name: head, kind: linear, pooling: mean}, losses: [label], optimizer: {name: adamw, lr: 1.0e-2,"
LORA = "method: {name: lora, rank: 16}, losses: [next_token], optimizer: {name: adamw, lr: 2.0e-3,"
END = "schedule: cosine, warmup: 0.03}, data: task, saving: {every: 1000}, batch_tokens: 1024"
RECIPE = """\
name: {name}
seed: 7
model: {{name: pocket, dtype: bfloat16}}
data:
  task: {{{task}, path: rows.jsonl}}
too_long: drop
split: {{{split}}}
stages:
  - {{name: train, {learning} {end}, steps: {steps}}}
proof: {{target: {{data: task, metric: {metric}}}}}
"""
INTENT = "format: prompt_completion, prompt: text, completion: label"
RECIPES = {
    "banking77-head": {"task": f"{INTENT}, subset: 0.5", "split": "dev: 0.03, test: 0.15", "learning": HEAD,
                       "steps": 60, "metric": "label_accuracy"},
    "clinc150-head": {"task": INTENT, "split": "", "learning": HEAD, "steps": 120, "metric": "label_accuracy"},
    "dolly-lora": {"task": "format: alpaca", "split": "dev: 0.03, test: 0.1", "learning": LORA, "steps": 30,
                   "metric": "bits_per_byte"},
}  # fmt: skip


def rows_of(data: Path, name: str) -> Iterable[Row]:
    """The rows of a recipe."""
    if name == "dolly-lora":
        return single_turns(data, "instructions/dolly_4k", LETTERS)
    if name == "banking77-head":
        return ({"text": row["text"], "label": row["category"]} for row in read(data, "nlu/banking77_train"))
    parts: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for row in read(data, "nlu/clinc150_small"):
        if row["split"] in parts:
            parts[row["split"]].append({"text": row["text"], "label": row["intent"]})
    chosen = {"train": parts["train"], "dev": parts["val"][::12][:QUERIES], "test": parts["test"][1::2]}
    return ({**row, "split": part} for part, rows in chosen.items() for row in rows)


def prepare(data: Path, folder: Path, name: str) -> Path:
    """Rows and recipe in a folder of their own."""
    own = folder / name
    make_folder(own)
    atomic_write(own / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows_of(data, name)))
    atomic_write(own / "recipe.yaml", RECIPE.format(name=name, end=END, **RECIPES[name]))
    return own


def main() -> None:
    """Runs the studies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    calm_process()
    for name in RECIPES:
        own = prepare(given.data, given.folder, name)
        print(run_study("selection", str(own / "recipe.yaml"), own / "study")["text"])


if __name__ == "__main__":
    main()
