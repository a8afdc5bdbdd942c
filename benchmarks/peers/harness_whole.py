"""lm-evaluation-harness on the questions and test rows that `benchmarks.grid` wrote, of a base or of an adapter on it.

Run with the interpreter of the peer's environment: `python -m benchmarks.peers.harness_whole SETTINGS`, plain data with
`prepared`, `adapter` (a folder, or None) and `output` (a file for the scores).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM


def task(prepared: Path, name: str, metric: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a local task, of the kind that its metric goes with."""
    common = {
        "task": name, "dataset_path": "json", "test_split": "test", "doc_to_text": "{{prompt}}",
        "target_delimiter": "", "dataset_kwargs": {"data_files": {"test": str(prepared / f"{name}.jsonl")}},
        "metric_list": [{"metric": metric}],
    }  # fmt: skip
    if metric == "bits_per_byte":
        return {**common, "output_type": "loglikelihood_rolling", "doc_to_target": "text"}
    if metric == "exact_match":
        length = {"until": plan["until"], "max_gen_toks": plan["max_new_tokens"], "do_sample": False}
        return {**common, "output_type": "generate_until", "doc_to_target": "text", "generation_kwargs": length}
    return {**common, "output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold"}


def main(settings: dict[str, Any]) -> None:
    """Scores every task and writes the means."""
    prepared = Path(settings["prepared"])
    plan = json.loads((prepared / "plan.json").read_text(encoding="utf-8"))
    model = HFLM(
        pretrained=plan["model"], peft=settings["adapter"], batch_size=32, device="cpu", dtype=plan["dtype"],
        add_bos_token=False,
    )  # fmt: skip
    tasks = [task(prepared, name, metric, plan) for name, metric in plan["metrics"].items()]
    found = lm_eval.simple_evaluate(model, tasks=tasks, bootstrap_iters=0)["results"]
    scores = {name: float(found[name][f"{metric},none"]) for name, metric in plan["metrics"].items()}
    Path(settings["output"]).write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
