"""A grid of settings, each measured for what it kept: `study compare` against a trainer and a harness per setting.

    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build --only trl-harness
    KEEPTUNE_PEERS=DIR python -m benchmarks.grid             # writes results/grid.json
    KEEPTUNE_PEERS=DIR python -m benchmarks.grid --quick     # two settings, fewer questions; prints

The peer is what a careful user would script: for each learning rate a process of TRL's trainer (bfloat16 weights, no
checkpointing, batches grouped by length: its fastest setting) that saves an adapter, and a process of
lm-evaluation-harness that scores it; the base is scored once. Both sides train LoRA of rank 16 on the same rows for the
same number of epochs at about as many tokens a step, answer the same multiple-choice questions and the same test rows.
Ours ranks all labels of a test row and measures two things more, bits per byte on three corpora and what unrelated
requests are answered with; the harness writes an answer to a test row and measures neither. One thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keeptune.pocket
from benchmarks import record
from benchmarks.peers.build import python_of
from benchmarks.peers.pipe import CALM, ROOT
from keeptune.core.example import Message
from keeptune.data.suite import ChoiceTask
from keeptune.evaluations._likelihood import Answers
from keeptune.recipes.material import Material, gather
from keeptune.recipes.measuring import context_of
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train

RECIPE, PEER = "lora", "trl-harness"
FACTORS = (0.25, 0.5, 1.0, 2.0)


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
    """One study, with nothing in its cache."""
    words = [word for setting in settings for word in ("--set", setting)]
    rates = ",".join(map(str, factors))
    study = [
        *("study", "compare", RECIPE, "--output", str(folder / "study"), *words),
        *("--with", f"recipes=[{RECIPE}]", "--with", f"rates=[{rates}]", "--with", "seeds=1"),
    ]
    took = spent([sys.executable, "-m", "keeptune", *study], folder, XDG_CACHE_HOME=str(folder / "cache"))
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


def prepare(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Writes rows, questions and test rows for the peer; says how many."""
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
    tasks = {task.name: _questions(task, answers) for task in context.suite.tasks}
    tasks["target"] = _open(material, answers)
    for name, questions in tasks.items():
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    plan = {
        "model": str(Path(keeptune.pocket.__file__).parent / "weights"), "rank": 16, "epochs": stage.epochs,
        "tasks": list(tasks),
        "batch": max(1, round(stage.batch_tokens / (tokens / len(rows)))),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    questions = sum(len(found) for name, found in tasks.items() if name != "target")
    return {"training_rows": len(rows), "tokens": tokens, "questions": questions, "test_rows": len(tasks["target"])}


def _questions(task: ChoiceTask, answers: Answers) -> list[dict[str, Any]]:
    """Prompt and options as text that the harness puts together to what we score."""
    found = []
    for item in task.items:
        prompt, options = item.prompt, list(item.options)
        if task.chat:
            rows = answers.rows([Message("user", item.prompt)], options)
            prompt = answers.tokenizer.decode(rows[0].tokens[: rows[0].start])
            options = [answers.tokenizer.decode(row.tokens[row.start :]) for row in rows]
        found.append({"prompt": prompt, "options": options, "gold": item.gold})
    return found


def _open(material: Material, answers: Answers) -> list[dict[str, Any]]:
    """Test rows as prompts to be continued."""
    rows = [(row, answers.rows(row.prompt, [row.target])[0]) for row in material.sources["task"].test]
    return [
        {"prompt": answers.tokenizer.decode(scored.tokens[: scored.start]), "answer": row.target}
        for row, scored in rows
    ]


def agreement(study: dict[str, Any], scores: list[dict[str, float]]) -> dict[str, Any]:
    """What both sides found of the base on the same questions, and of the settings."""
    tasks = [name for name in scores[0] if name != "target"]
    return {
        "general_of_the_base": [study["base"]["general"], sum(scores[0][name] for name in tasks) / len(tasks)],
        "general_of_the_settings": [
            [cell["general"] for cell in study["cells"]],
            [sum(own[name] for name in tasks) / len(tasks) for own in scores[1:]],
        ],
    }


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
    settings = [f"proof.items={items}", f"stages[0].epochs={0.2 if asked.quick else 1.0}"]
    recipe = load_recipe(RECIPE, settings)
    last = [stage for stage in recipe.stages if isinstance(stage, Train)][-1].optimizer.lr
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("prepared", "ours", "theirs"):
            (folder / name).mkdir()
        sizes = prepare(recipe, folder / "prepared")
        own, study = ours(settings, list(factors), folder / "ours")
        peer, scores = theirs(folder / "prepared", [last * factor for factor in factors], folder / "theirs")
    found = row(own, peer, len(factors), agreement(study, scores))
    record.write("grid", [found], seeds=[recipe.seed], quick=asked.quick, settings=settings, **sizes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
