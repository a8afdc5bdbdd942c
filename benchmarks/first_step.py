"""What the first steps of a training add to a process whatever the size of the model: libraries' own code and pools.

    python -m benchmarks.first_step            # writes results/first_step.json
    python -m benchmarks.first_step --quick    # one combination; prints

Each combination of `benchmarks.memory_model` that is named here takes two steps of 256 tokens on the smallest model of
its family, in a process of its own that has imported everything before. What the process holds after them beyond what
it held before the model was made is the constant `FIRST_STEP` of `keeptune.planning.memory`: in bfloat16, the median.
"""

from __future__ import annotations

import argparse
from multiprocessing import Pipe, Process
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.memory_model import COMBINATIONS, MODELS, SMALL, Combination
from keeptune.core.machine import calm_process

NAMES = (
    "llama-30m full", "llama-30m lora", "llama-30m dora", "llama-30m prefix", "qwen2-75m full", "gpt2-33m full",
    "gpt2-33m lora", "llama-30m lora float32",
)  # fmt: skip
TOKENS = 256


def added(combination: Combination, pipe: Any) -> None:
    """The child's work: bytes that building the smallest model and two steps on it add."""
    import torch

    from benchmarks.memory_steps import Steps
    from keeptune.core.usage import resident_bytes

    torch.set_num_threads(1)
    config = {key: SMALL.get(key, value) for key, value in MODELS[combination.model].items()}
    before = resident_bytes()
    Steps(config, combination, tokens=TOKENS).take(2)
    pipe.send(resident_bytes() - before)


def run(combination: Combination) -> dict[str, Any]:
    """One combination, in a child."""
    here, there = Pipe()
    child = Process(target=added, args=(combination, there))
    child.start()
    found: int = here.recv()
    child.join()
    return {"what": combination.name, "dtype": combination.dtype, "bytes": found}


def typical(rows: list[dict[str, Any]]) -> int:
    """The median over the combinations in bfloat16."""
    return round(median(row["bytes"] for row in rows if row["dtype"] == "bfloat16"))


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    calm_process()
    chosen = [one for one in COMBINATIONS if one.name in NAMES]
    rows = [run(one) for one in (chosen[:1] if asked.quick else chosen)]
    print(f"{typical(rows) / 2**20:.1f} MiB")
    record.write("first_step", rows, seeds=[0], quick=asked.quick, median=typical(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
