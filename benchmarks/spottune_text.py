"""Does SpotTune tune other blocks for another task? Three unlike tasks of text, on pocket.

    python -m benchmarks.spottune_text FOLDER            # goes on where it stopped; writes its record and its page
    python -m benchmarks.spottune_text FOLDER --quick    # one seed, few steps; prints

`areas` is the embedded task (one of twelve labels), `reversal` words in reversed order, `polite` five kinds of request
that pocket answers already, now in a sentence (`benchmarks.dmt` makes the last two). Decisions are read on test prompts
after training, without noise, and tasks are compared within a seed, which begins all of them with the same policy.
Tasks, sizes and the test were fixed before any of it was run, and that it ends after four seeds of five, by the clock,
before any test was read. A policy at 2e-2 was given up after four steps, in which it had decided for good.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.dmt import rows
from benchmarks.spottune_reading import page, readings
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.core.run import Run
from keeptune.data.encode import encoder_of
from keeptune.engine.book import require_book
from keeptune.evaluations import Subject
from keeptune.methods._policy import Policy
from keeptune.recipes.material import Material, gather
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages._progress import Progress
from keeptune.studies import Plain, Work
from keeptune.studies._arms import scored, trained

TASKS = {"areas": None, "reversal": "task", "polite": "general"}
"""By their names in `benchmarks.dmt`; None: the embedded task."""
TRAIN, TEST, LABELS = 600, 120, 12
SEEDS, STEPS, BATCH_TOKENS = tuple(range(7, 11)), 48, 1024
ARMS: dict[str, tuple[dict[str, Any], float, float]] = {
    "LoRA, as in the recipe": ({"branch": "lora"}, 2e-3, 1e-3),
    "copies, a faster policy": ({"branch": "copy"}, 1e-3, 4e-3),
    "LoRA in three blocks, a faster policy": ({"branch": "lora", "compact": 3}, 2e-3, 4e-3),
}
"""Settings of the method, rate of the branches, rate of the policy."""
PAGE = Path(__file__).parent.parent / "docs" / "results" / "spottune_text.md"
QUIET = Progress(quiet=True)


def settings(folder: Path, task: str) -> list[str]:
    """The recipe's data and proof."""
    kind = TASKS[task]
    if kind is None:
        counts = f"train: {TRAIN // LABELS}, dev: 1, test: {TEST // LABELS}"
        return [f"data.task={{format: embedded, {counts}}}"]
    path = folder / f"{task}.jsonl"
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows(kind, TRAIN, TEST, "spottune")))
    return [
        f"data.task={{format: prompt_completion, path: {path}}}", "split={dev: 0, test: 0.2}",
        "proof={target: {data: task, metric: exact_match, max_new_tokens: 32}}",
    ]  # fmt: skip


class Task:
    """One task, its rows and its base."""

    def __init__(self, folder: Path, task: str, steps: int) -> None:
        make_folder(folder)
        self.task, self.steps, self.data = task, steps, settings(folder, task)
        recipe = load_recipe("spottune", self.data)
        self.work = Work(Run.open(folder / task), recipe, None, Workshop(trusted=folder / task))
        self.base = recipe.model.checkpoint
        self.material: Material = gather(recipe, None, self.work.workshop, self.base, QUIET)

    def base_score(self) -> float:
        """Of the model that nothing was done to."""
        return scored(self.work, self.base, self.material).value

    def run(self, arm: str, seed: int) -> Plain:
        """Trains one arm, reads its decisions and its score."""
        method, rate, policy = ARMS[arm]
        chosen = {"name": "spottune", "rank": 8, "last_temperature": 0.5, **method}
        own = [
            f"stages[0].method={json.dumps(chosen)}", f"stages[0].optimizer.lr={rate}",
            f"stages[0].optimizer.rates={{Decisions: {policy / rate:g}}}", "stages[0].epochs=null",
            f"stages[0].steps={self.steps}", f"stages[0].batch_tokens={BATCH_TOKENS}", f"seed={seed}",
        ]  # fmt: skip
        recipe = load_recipe("spottune", [*self.data, *own])
        label = f"{list(ARMS).index(arm)}-{seed}"

        def make() -> Plain:
            checkpoint = trained(self.work, recipe, self.material, self.work.folder(label))
            found = self.decisions(checkpoint)
            return {**found, "score": scored(self.work, checkpoint, self.material).value}

        return {"arm": arm, "task": self.task, "seed": seed, **self.work.once(label, recipe.to_dict(), make)}

    def decisions(self, checkpoint: Checkpoint) -> Plain:
        """Of each block: the share of test prompts that tune it, and the mean chance with which noise would open it."""
        subject = self.work.workshop.subject(checkpoint)
        name = checkpoint.adapters[-1].name
        policy = next(one for one in require_book(subject.model, name).modules() if isinstance(one, Policy))
        with torch.inference_mode():
            logits = policy.logits(self.pooled(subject))
        open_NL = (logits[..., 1] > logits[..., 0]).double()
        if policy.settled.any():
            open_NL = policy.settled.double().expand_as(open_NL)
        return {
            "open": open_NL.mean(0).tolist(),
            "lean": (logits[..., 1] - logits[..., 0]).sigmoid().double().mean(0).tolist(),
            "mixed": int(((open_NL.mean(0) > 0) & (open_NL.mean(0) < 1)).sum()),
        }

    def pooled(self, subject: Subject) -> torch.Tensor:
        """`[prompts, width]`: the mean embedding of each test prompt, as the policy sees it."""
        encoder = encoder_of(subject.tokenizer, None, subject.kind)
        weight = subject.model.get_input_embeddings().weight
        prompts = [torch.tensor(encoder.prompt(row.prompt)) for row in self.material.examples()["task/test"]]
        return torch.stack([torch.nn.functional.embedding(one, weight).float().mean(0) for one in prompts])


def main() -> None:
    """Runs what is missing; writes the record and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    record.without_paths(FOLDER=given.folder)
    calm_process()
    seeds, steps = (SEEDS[:1], 4) if given.quick else (SEEDS, STEPS)
    tasks = [Task(given.folder.absolute(), task, steps) for task in TASKS]
    runs = []
    for seed in seeds:
        for arm in ARMS:
            for task in tasks:
                runs.append(task.run(arm, seed))
                print(json.dumps(runs[-1]), flush=True)
    if given.quick:
        return
    about = {
        "arms": {arm: {**method, "rate": rate, "policy_rate": policy} for arm, (method, rate, policy) in ARMS.items()},
        "base": {task.task: task.base_score() for task in tasks},
        "rows_each": {"train": TRAIN, "test": TEST}, "steps": steps, "batch_tokens": BATCH_TOKENS, "runs": runs,
    }  # fmt: skip
    made = record.write("spottune_text", readings(runs), seeds=seeds, **about)
    atomic_write(PAGE, page(made))


if __name__ == "__main__":
    main()
