"""A grid of settings, each measured for what it kept: `study compare` against a trainer and a harness per setting.

    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build --only trl-harness
    KEEPTUNE_PEERS=DIR python -m benchmarks.grid             # writes a record for the kind of processor
    KEEPTUNE_PEERS=DIR python -m benchmarks.grid --quick     # two settings, fewer questions; prints

The peer is what a careful user would script: for each learning rate a process of TRL's trainer (no checkpointing,
batches grouped by length: its fastest setting) that saves an adapter, and a process of lm-evaluation-harness that
scores it; the base is scored once. Both sides train LoRA of rank 16 on the same rows for the same number of epochs at
about as many tokens a step, with weights in the dtype that the processor is fastest in, and measure the same with every
model: multiple-choice questions, all labels of each test row and of each row of other packages, bits per byte of the
documents of three corpora, and the answers to unrelated requests. Rows and questions lie ready for both, and no score
does. One thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keeptune.pocket
from benchmarks import record
from benchmarks.peers.build import python_of
from benchmarks.peers.pipe import CALM, ROOT
from keeptune.core.example import Example, Message
from keeptune.data.encode import stop_ids
from keeptune.data.suite import ChoiceTask
from keeptune.evaluations._likelihood import Answers, opening_token
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.recipes.material import gather
from keeptune.recipes.measuring import context_of
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train

RECIPE, PEER = "lora", "trl-harness"
FACTORS = (0.25, 0.5, 1.0, 2.0)
METRICS = {"none": "acc", "bytes": "acc_bytes", "prior": "acc_mutual_info"}
"""What the harness calls the accuracy under each of our normalisations."""
APART = 0.01
"""Most that both sides may find different of the base: in bfloat16, other batches turn near ties."""


@dataclass(frozen=True)
class Spent:
    """What processes took, one after the other.

    Attributes:
        wall: seconds.
        processor: seconds.
        peak: bytes of the largest of them.
    """

    wall: float = 0.0
    processor: float = 0.0
    peak: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.processor + other.processor, max(self.peak, other.peak))


def spent(command: list[str], folder: Path, **environment: str) -> Spent:
    """Runs one process to its end."""
    begun = time.monotonic()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log,
            env={**os.environ, **CALM, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:])
    return Spent(time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def ours(settings: list[str], factors: list[float], folder: Path) -> tuple[Spent, dict[str, Any]]:
    """One study, with rows and questions in its cache and nothing else."""
    words = [word for setting in settings for word in ("--set", setting)]
    rates = ",".join(map(str, factors))
    study = [
        *("study", "compare", RECIPE, "--output", str(folder / "study"), *words),
        *("--with", f"recipes=[{RECIPE}]", "--with", f"rates=[{rates}]", "--with", "seeds=1"),
    ]
    took = spent([sys.executable, "-m", "keeptune", *study], folder)
    result = json.loads((folder / "study" / "study.json").read_text(encoding="utf-8"))
    return took, result


def theirs(prepared: Path, rates: list[float], folder: Path) -> tuple[Spent, list[dict[str, float]]]:
    """The base's scores, then two processes for each rate."""
    python, total, scores = str(python_of(PEER)), Spent(), []
    for place, rate in enumerate([None, *rates]):
        out = folder / f"setting-{place}"
        out.mkdir()
        adapter = None if rate is None else str(out / "adapter")
        if rate is not None:
            given = {"prepared": str(prepared), "lr": rate, "output": adapter}
            total += spent([python, "-m", "benchmarks.peers.trl_whole", json.dumps(given)], out)
        asked = {"prepared": str(prepared), "adapter": adapter, "output": str(out / "scores.json")}
        total += spent([python, "-m", "benchmarks.peers.harness_whole", json.dumps(asked)], out)
        scores.append(json.loads((out / "scores.json").read_text(encoding="utf-8")))
    return total, scores


def prepare(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Writes for the peer what is trained on and asked; gives the counts, and the names of general ability's tasks."""
    workshop = Workshop()
    base = recipe.model.checkpoint
    material = gather(recipe, None, workshop, base, Progress(quiet=True))
    context = context_of(recipe, workshop, material, base, None)
    stage = next(stage for stage in recipe.stages if isinstance(stage, Train))
    rows = material.train["task"].rows
    tokens = sum(len(row.tokens) for row in rows)
    learnt = [{"input_ids": list(row.tokens), "completion_mask": list(map(int, row.learned))} for row in rows]
    answers = Answers(context.subject(base).tokenizer)
    (folder / "rows.json").write_text(json.dumps(learnt), encoding="utf-8")
    assert context.suite is not None, "the recipe has a suite"
    suite, form = context.suite, FormatDrift(data="task")
    tasks = {task.name: (METRICS[task.normalise], _questions(task, answers)) for task in suite.tasks}
    labels = context.answers("task")
    tasks["target"] = ("acc", _labelled(context.rows("task", "test"), labels, answers))
    tasks["unseen"] = ("acc", _labelled(context.rows("task", "ood"), labels, answers))
    for corpus in suite.corpora:
        tasks[corpus.name] = ("bits_per_byte", [{"prompt": "", "text": text.text} for text in corpus.documents])
    asked = [answers.rows([Message("user", request)], [""])[0] for request in suite.instructions]
    written = [{"prompt": _said(answers, row.tokens[: row.start]), "text": ""} for row in asked]
    tasks["requests"] = ("exact_match", written)
    for name, (_, rows_of) in tasks.items():
        lines = "".join(json.dumps(one) + "\n" for one in rows_of)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    plan = {
        "model": str(Path(keeptune.pocket.__file__).parent / "weights"), "dtype": base.dtype, "rank": 16,
        "epochs": stage.epochs,
        "metrics": {name: metric for name, (metric, _) in tasks.items()}, "max_new_tokens": form.max_new_tokens,
        "until": [_said(answers, [token]) for token in stop_ids(answers.tokenizer)],
        "batch": max(1, round(stage.batch_tokens / (tokens / len(rows)))),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    counts = {name: len(found) for name, (_, found) in tasks.items()}
    sizes = {
        "training_rows": len(rows), "tokens": tokens, "questions": sum(counts[task.name] for task in suite.tasks),
        "test_rows": counts["target"] + counts["unseen"], "requests": counts["requests"],
        "documents": sum(counts[corpus.name] for corpus in suite.corpora),
    }  # fmt: skip
    return sizes, [task.name for task in suite.tasks]


def _said(answers: Answers, tokens: Sequence[int]) -> str:
    """Text whose tokens, special ones too, are these."""
    return str(answers.tokenizer.decode(list(tokens)))


def _questions(task: ChoiceTask, answers: Answers) -> list[dict[str, Any]]:
    """Prompt and options as text that the harness puts together to what we score."""
    found, opening = [], _said(answers, opening_token(answers.tokenizer))
    for item in task.items:
        prompt, options = item.prompt and opening + item.prompt, list(item.options)
        if task.chat:
            prompt, options = _turn([Message("user", item.prompt)], options, answers)
        found.append({"prompt": prompt, "options": options, "gold": item.gold})
    return found


def _labelled(rows: Sequence[Example], labels: Sequence[str], answers: Answers) -> list[dict[str, Any]]:
    """Rows of the task, each with all labels to choose from."""
    found = []
    for row in rows:
        prompt, options = _turn(row.prompt, labels, answers)
        found.append({"prompt": prompt, "options": options, "gold": list(labels).index(row.target)})
    return found


def _turn(turns: Sequence[Message], options: Sequence[str], answers: Answers) -> tuple[str, list[str]]:
    """A conversation up to the assistant's turn, and that turn in each form."""
    rows = answers.rows(turns, options)
    return _said(answers, rows[0].tokens[: rows[0].start]), [_said(answers, row.tokens[row.start :]) for row in rows]


def agreement(study: dict[str, Any], scores: list[dict[str, float]], tasks: Sequence[str]) -> dict[str, Any]:
    """What both sides found of the base on the same questions, and of the settings."""

    def general(of: dict[str, float]) -> float:
        return sum(of[name] for name in tasks) / len(tasks)

    return {
        "general_of_the_base": [study["base"]["general"], general(scores[0])],
        "target_of_the_base": [study["base"]["target"], scores[0]["target"]],
        "general_of_the_settings": [[cell["general"] for cell in study["cells"]], [general(own) for own in scores[1:]]],
        "target_of_the_settings": [
            [cell["target"] for cell in study["cells"]], [own["target"] for own in scores[1:]],
        ],
    }  # fmt: skip


def row(own: Spent, peer: Spent, count: int, checked: dict[str, Any]) -> dict[str, Any]:
    """The row of the record."""

    def ratio(of: float, to: float) -> dict[str, Any]:
        return {"median": of / to, "p10": of / to, "p90": of / to, "n": 1}

    return {
        "what": f"{count} settings of LoRA, each measured for what it kept",
        "peer": "a process of TRL and one of lm-evaluation-harness for each",
        "own_seconds": round(own.wall, 1), "peer_seconds": round(peer.wall, 1), "speed": ratio(peer.wall, own.wall),
        "processor": {"own": round(own.processor, 1), "peer": round(peer.processor, 1)},
        "peak_mib": {"own": own.peak >> 20, "peer": peer.peak >> 20},
        "checked": checked,
    }  # fmt: skip


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=300, help="questions per task of the suite")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    factors, items = (FACTORS[:2], 50) if asked.quick else (FACTORS, asked.items)
    settings = [
        f"proof.items={items}",
        f"stages[0].epochs={0.2 if asked.quick else 1.0}",
        f"model.dtype={record.dtypes()[-1]}",
    ]
    recipe = load_recipe(RECIPE, settings)
    last = [stage for stage in recipe.stages if isinstance(stage, Train)][-1].optimizer.lr
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("prepared", "ours", "theirs", "cache"):
            (folder / name).mkdir()
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        sizes, questions = prepare(recipe, folder / "prepared")
        own, study = ours(settings, list(factors), folder / "ours")
        peer, scores = theirs(folder / "prepared", [last * factor for factor in factors], folder / "theirs")
        checked = agreement(study, scores, questions)
        for what in ("general_of_the_base", "target_of_the_base"):
            first, second = checked[what]
            assert abs(first - second) < APART, f"{what}: {first:.4f} here, {second:.4f} there"
    found = row(own, peer, len(factors), checked)
    record.write("grid", [found], seeds=[recipe.seed], quick=asked.quick, by_units=True, settings=settings, **sizes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
