"""A study of several LoRA settings, each ending in a proof: runs that share a cache against runs that share nothing.

    python -m benchmarks.study            # writes results/study.json
    python -m benchmarks.study --quick    # two settings, fewer questions; prints

Every setting is a `keeptune run` on the embedded model and task. Runs that share a cache read the base's scores, which
the first of them measured; runs apart measure the base each, as separate tools would. Both must end in the same
certificates: the same scores of base and adapted model, the same verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.interleave import interleaved, middle, ratio
from benchmarks.peers.pipe import CALM, ROOT

RECIPE = "lora"
RATES = ("5e-4", "1e-3", "2e-3", "4e-3")


def run(rate: str, cache: Path, settings: list[str]) -> tuple[float, dict[str, Any]]:
    """Processor seconds of one run, and what its certificate says."""
    with tempfile.TemporaryDirectory() as made:
        output = Path(made) / "run"
        words = [f"stages[0].optimizer.lr={rate}", *settings]
        process = subprocess.Popen(
            [sys.executable, "-m", "keeptune", "run", RECIPE, "--output", str(output), "--json",
             *(word for setting in words for word in ("--set", setting))],
            env={**os.environ, **CALM, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)},
            cwd=made, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode in (0, 1, 6), f"the run ended with {process.returncode}"
        certificate = json.loads((output / "certificate.json").read_text(encoding="utf-8"))
    said = {key: certificate[key] for key in ("verdict", "target", "retention", "format")}
    return used.ru_utime + used.ru_stime, said


def study(rates: tuple[str, ...], settings: list[str], rounds: int, seed: int) -> list[dict[str, Any]]:
    """The row of the record."""
    said: dict[str, dict[str, Any]] = {"shared": {}, "apart": {}}

    def way(kind: str) -> Callable[[int], float]:
        def go(_: int) -> float:
            seconds = 0.0
            with tempfile.TemporaryDirectory() as cache:
                for rate in rates:
                    folder = Path(cache) if kind == "shared" else Path(cache) / rate
                    taken, said[kind][rate] = run(rate, folder, settings)
                    seconds += taken
            return seconds

        return go

    seconds = interleaved({kind: way(kind) for kind in said}, rounds, seed, warm=0)
    assert said["shared"] == said["apart"], "a cached score differs from a measured one"
    return [
        {
            "what": f"{len(rates)} settings of LoRA, each with its proof",
            "peer": "every run measures the base itself",
            "own_seconds": middle(seconds["shared"]),
            "peer_seconds": middle(seconds["apart"]),
            "speed": ratio(seconds["apart"], seconds["shared"]),
            "checked": {"verdicts": [said["shared"][rate]["verdict"] for rate in rates]},
        }
    ]


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=300, help="questions per task of the suite")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    rates, items = (RATES[:2], 60) if asked.quick else (RATES, asked.items)
    settings = [f"proof.items={items}", "stages[0].epochs=0.2"]
    rows = study(rates, settings, asked.rounds, asked.seed)
    record.write("study", rows, seeds=[asked.seed], quick=asked.quick, rounds=asked.rounds, settings=settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
