"""SpotTune and Deep Incubation in their papers' own setting, images: a small ViT on scikit-learn's digits.

    python -m benchmarks.digits_study            # writes results/digits_study.json and docs/results/digits.md
    python -m benchmarks.digits_study --page     # the page alone, of what is measured

Every finished run is written at once; the same command goes on where it stopped. A learning rate is chosen for each arm
on dev rows with a seed that is measured nowhere else; test rows are looked at with the chosen rate. Needs
`pip install 'keeptune[data]'`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks import digits_incubation as incubation
from benchmarks import digits_spottune as spottune
from benchmarks import record
from benchmarks.digits_page import page
from keeptune.core.files import atomic_write, make_folder, write_json
from keeptune.core.machine import calm_process

RESULTS = record.RESULTS / "digits_study.json"
PAGE = Path(__file__).parent.parent / "docs" / "results" / "digits.md"
SEEDS = range(5)
CHOOSING = 1000
"""Seed of the runs that choose rates."""

Runs = dict[str, dict[str, Any]]


class Book:
    """The runs that are done, in the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.runs: Runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else {}

    def take(self, key: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a run found, from the file or from now on in it."""
        if key not in self.runs:
            begun = time.monotonic()
            found = run()
            self.runs[key] = {**found, "seconds": round(time.monotonic() - begun, 1)}
            self.write()
            print(key, self.runs[key], flush=True)
        return self.runs[key]

    def write(self) -> None:
        """Writes all of it."""
        make_folder(self.file.parent)
        write_json(
            self.file,
            {
                "command": "python -m benchmarks.digits_study",
                "machine": record.machine(),
                "versions": record.versions("keeptune", "torch", "transformers", "scikit-learn"),
                "seeds": list(SEEDS),
                "runs": self.runs,
            },
        )


def adapted(book: Book, folder: Path, arm: str, task: str, rate: float, seed: int, look: str) -> dict[str, Any]:
    """One run of SpotTune or a rival."""
    run = lambda: spottune.adapted(folder, arm, task, rate, seed, look=look)  # noqa: E731
    return book.take(f"{look}|{arm}|{task}|{rate:g}|{seed}", run)


def incubated(book: Book, folder: Path, arm: str, rate: float, first: float, seed: int, look: str) -> dict[str, Any]:
    """One run of Deep Incubation or a rival."""
    run = lambda: incubation.measured(folder, arm, rate, first, seed, look=look)  # noqa: E731
    return book.take(f"{look}|incubation|{arm}|{rate:g}|{seed}", run)


def study(book: Book, folder: Path) -> None:
    """Everything that is not in the book yet."""
    for arm in spottune.ARMS:
        scores = {
            rate: mean(adapted(book, folder, arm, task, rate, CHOOSING, "dev")["accuracy"] for task in spottune.TASKS)
            for rate in spottune.RATES
        }
        book.runs[f"rate|{arm}"] = {"rate": max(scores, key=lambda rate: scores[rate])}
    for seed in SEEDS:
        for arm in spottune.ARMS:
            for task in spottune.TASKS:
                adapted(book, folder, arm, task, book.runs[f"rate|{arm}"]["rate"], seed, "test")
    first = 0.0
    for arm in incubation.ARMS:
        found = {
            rate: incubated(book, folder, arm, rate, first, CHOOSING, "dev")["accuracy"] for rate in incubation.RATES
        }
        chosen = max(found, key=lambda rate: found[rate])
        book.runs[f"rate|incubation|{arm}"] = {"rate": chosen}
        first = chosen if arm == "assembled" else first
    for seed in SEEDS:
        for arm in incubation.ARMS:
            incubated(book, folder, arm, book.runs[f"rate|incubation|{arm}"]["rate"], first, seed, "test")
    book.write()


def main() -> int:
    """Measures what is missing, writes the record and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    book = Book(RESULTS)
    if not asked.page:
        with tempfile.TemporaryDirectory() as folder:
            study(book, Path(folder))
    atomic_write(PAGE, page(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    calm_process()
    torch.set_num_threads(1)
    raise SystemExit(main())
