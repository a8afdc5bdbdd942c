"""The same local tasks asked by lm-evaluation-harness and by keeptune, of the same model: equal item by item?

python -m benchmarks.harness DATA [--items 500] [--model pocket]      -> benchmarks/results/harness.json

DATA holds lambada_test, piqa_valid and mmlu_val_zeroshot as .jsonl.gz. One side is the harness's own model class for
Hugging Face models (batches of 8, padded, float32); the other is a suite file with `kind: harness`. Needs lm-eval.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import write_json
from keeptune.data.suite_files import read_suite
from keeptune.evaluations import Context
from keeptune.evaluations.harness import Harness
from keeptune.recipes.workshop import Workshop

RESULTS = Path(__file__).parent / "results" / "harness.json"
LETTERS = ["A", "B", "C", "D"]
TASKS: dict[str, dict[str, Any]] = {
    "lambada_test": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    },
    "piqa_valid": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{goal}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": "{{[sol1, sol2]}}",
    },
    "mmlu_val_zeroshot": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{input}}",
        "doc_to_target": "{{['A', 'B', 'C', 'D'].index(output)}}",
        "doc_to_choice": LETTERS,
    },
}
METRICS = {"lambada_test": ["acc"], "piqa_valid": ["acc", "acc_norm"], "mmlu_val_zeroshot": ["acc"]}


def write_tasks(data: Path, folder: Path, items: int) -> Path:
    """A suite of the three tasks, once for each metric, over the first rows."""
    tasks = []
    for name, config in TASKS.items():
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [line for line, _ in zip(lines, range(items), strict=False)]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
        whole = {
            "task": f"local_{name}", "dataset_path": "json", "test_split": "test", **config,
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS[name]
            ],
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
        tasks += [
            {"name": f"{name}/{metric}", "file": f"{name}.yaml", "kind": "harness", "metric": metric}
            for metric in METRICS[name]
        ]
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}), encoding="utf-8")
    return path


def own_scores(suite: Path, model: str) -> dict[str, dict[str, float]]:
    """Of every task: score by item."""
    context = Context(subject=Workshop().subject, suite=read_suite(suite), batch_tokens=4096)
    scores = Harness().measure(Checkpoint(model, dtype="float32"), context)
    return {score.task: {item.id: item.score for item in score.items} for score in scores}


def their_scores(suite: Path, model: str) -> dict[str, dict[str, float]]:
    """The same from the harness, with its own model class."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from keeptune.models.load import load

    loaded = load(model, dtype="float32")
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8, device="cpu", dtype="float32")
    found: dict[str, dict[str, float]] = {}
    for task in read_suite(suite).harness:
        with contextlib.redirect_stdout(io.StringIO()):
            result = lm_eval.simple_evaluate(theirs, tasks=[json.loads(task.task)], log_samples=True, bootstrap_iters=0)
        found[task.name] = {
            f"{part}/{sample['doc_id']}": float(sample[task.metric])
            for part, samples in result["samples"].items()
            for sample in samples
        }
    return found


def main() -> int:
    """Prints and writes the comparison; 1 when an item differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--model", default="pocket")
    options = parser.parse_args()
    import lm_eval

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        suite = write_tasks(options.data, Path(made), options.items)
        own, theirs = own_scores(suite, options.model), their_scores(suite, options.model)
    rows = []
    for name, scores in own.items():
        assert scores.keys() == theirs[name].keys(), "both sides asked the same items"
        equal = sum(scores[key] == theirs[name][key] for key in scores)
        mean = sum(scores.values()) / len(scores)
        rows.append({"task": name, "items": len(scores), "equal": equal, "score": mean})
        print(rows[-1])
    report = {"command": "python -m benchmarks.harness DATA", "lm_eval": lm_eval.__version__, "rows": rows}
    write_json(RESULTS, {**report, "model": Path(options.model).name, "items": options.items})
    return int(any(row["equal"] != row["items"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
