"""A user's first minute: from `keeptune run` to the end of the first training step, imports included.

    python -m benchmarks.startup            # writes results/startup.json
    python -m benchmarks.startup --quick    # two warm starts of a small suite; prints

Three figures on the embedded model and task:

- the very first run, which measures the base (its scores are kept);
- a later run, base scores in the cache and files in memory: the one that happens again and again;
- the same with the files of the environment put out of memory first, as after the machine was started.

Seconds by the wall clock say what the user waits for, and depend on what else the machine does; processor seconds of
the process say what an idle machine would take at most, since one thread does the work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.peers.pipe import CALM, ROOT

RECIPE = "lora"
PATIENCE_SECONDS = 1800


def first_step(cache: Path, settings: list[str]) -> dict[str, float]:
    """Starts a run, and stops it once its first step is recorded."""
    with tempfile.TemporaryDirectory() as made:
        output = Path(made) / "run"
        command = [sys.executable, "-m", "keeptune", "run", RECIPE, "--output", str(output)]
        environment = {**os.environ, **CALM, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, *(word for setting in settings for word in ("--set", setting))],
            env=environment, cwd=made, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not (output / "metrics.jsonl").exists():
                assert process.poll() is None, "the run ended without a step"
                assert time.monotonic() - began < PATIENCE_SECONDS, "the first step did not come"
                time.sleep(0.01)
            return {"wall": time.monotonic() - began, "processor": processor_seconds(process.pid)}
        finally:
            process.kill()
            process.wait()


def processor_seconds(process: int) -> float:
    """User and system time of a running process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_files() -> None:
    """Asks the system to drop the environment's and the package's files from memory; what others map may stay."""
    for folder in (Path(sys.prefix), ROOT / "keeptune"):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".pyc", ".so", ".safetensors", ".json", ".gz") and path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def row(what: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and extremes."""
    shown: dict[str, Any] = {"what": what, "n": len(found)}
    for kind in ("processor", "wall"):
        seconds = [each[kind] for each in found]
        shown[f"{kind}_seconds"] = round(float(np.median(seconds)), 2)
        shown[f"{kind}_lowest_highest"] = [round(min(seconds), 2), round(max(seconds), 2)]
    return shown


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, help="questions per task of the suite; unset: the recipe's")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    items = 60 if asked.quick else asked.items
    settings = [] if items is None else [f"proof.items={items}"]
    rounds = 2 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory() as cache:
        rows = [row("the very first run: the base is measured", [first_step(Path(cache), settings)])]
        warm = [first_step(Path(cache), settings) for _ in range(rounds)]
        rows.append(row("base scores cached, files in memory", warm))
        cold = []
        for _ in range(max(1, rounds // 2)):
            forget_files()
            cold.append(first_step(Path(cache), settings))
        rows.append(row("base scores cached, files on the disk", cold))
    record.write("startup", rows, seeds=[], quick=asked.quick, recipe=RECIPE, settings=settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
