"""Peak memory of the LoRA step against TRL, and of head and loss against full logits at a vocabulary of 128,000.

    KEEPTUNE_PEERS=DIR python -m benchmarks.memory            # writes results/memory.json
    KEEPTUNE_PEERS=DIR python -m benchmarks.memory --quick    # fewer steps, one peer; prints

Each contestant trains in a process of its own on the batches of `train_step`. Counted is the highest resident size
during the steps less the resident size before the first one, when model and trainer stood ready; the whole is given
beside it. Memory does not depend on what else the machine does, so nothing is interleaved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import record, workload
from benchmarks.peers.pipe import Contestant
from benchmarks.train_step import ENTRIES, Entry, running

MIB = 1 << 20
HEAD = {"rows": 1536, "width": 512, "vocabulary": 128_000}
# The least memory that TRL's settings reach: bfloat16 weights with the checkpointing that is its default.
LEAN = {
    name: replace(ENTRIES[name], says=f"TRL {name}, bf16 weights, checkpointing", dtype="bfloat16", role="lean")
    for name in ("1.16", "1.14", "1.9")
}


def step_peak(name: str, entry: Entry, steps: int, seed: int) -> dict[str, Any]:
    """The peak of one contestant over some steps."""
    rows = workload.draw_rows(workload.ROWS_PER_STEP * (steps + 1), seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model, given = workload.write_model(folder / "model", seed), workload.write_rows(folder / "rows.json", rows)
        with running({name: entry}, given, model, folder) as children:
            ready = children[name].ready["resident"]
            answers = [children[name].ask(do="step", forget_peak=turn == 0) for turn in range(steps)]
    peak = max(answer["peak"] for answer in answers)
    return {
        "what": "LoRA step, random batches",
        "of": entry.says,
        "role": entry.role,
        "step_mib": round((peak - ready) / MIB, 1),
        "whole_mib": round(peak / MIB, 1),
        "steps": steps,
        "checked": {"first_loss": round(answers[-1]["losses"][0], 4)},
    }


def head_peak(kind: str, dtype: str) -> dict[str, Any]:
    """The peak of head and loss alone."""
    settings = {**HEAD, "kind": kind, "dtype": dtype}
    with tempfile.TemporaryDirectory() as made:
        log = Path(made) / "log"
        with Contestant(sys.executable, "benchmarks.peers.head_memory", settings, log) as child:
            found = child.ask(do="step")
            ready = child.ready["resident"]
    return {
        "what": f"head and loss, {HEAD['rows']} rows, vocabulary {HEAD['vocabulary']:,}, {dtype}",
        "of": {"full": "full logits", "own": "keeptune"}[kind],
        "role": kind,
        "step_mib": round((found["peak"] - ready) / MIB, 1),
        "whole_mib": round(found["peak"] / MIB, 1),
        "checked": {"loss": found["loss"], "gradient_norm": found["gradient"]},
    }  # fmt: skip


def check(rows: list[dict[str, Any]]) -> None:
    """Everybody computed the same."""
    for what in {row["what"] for row in rows}:
        for key in ("first_loss", "loss", "gradient_norm"):
            values = [row["checked"][key] for row in rows if row["what"] == what and key in row["checked"]]
            assert not values or max(values) - min(values) < 2e-3 * abs(values[0]), f"{what}: {key} differs: {values}"


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="these contestants of the step; the record says which")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    entries = {**ENTRIES, **{f"{name}-lean": entry for name, entry in LEAN.items()}}
    if asked.quick or asked.only:
        entries = {name: entries[name] for name in asked.only or ("own", "1.14-lean")}
    rows = [head_peak(kind, dtype) for dtype in ("float32", "bfloat16") for kind in ("full", "own")]
    rows += [step_peak(name, entry, 2 if asked.quick else asked.steps, asked.seed) for name, entry in entries.items()]
    check(rows)
    record.write("memory", rows, seeds=[asked.seed], quick=asked.quick)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
