"""The LoRA training step on the rows of a task, which stand behind one instruction, against TRL with PEFT.

    KEEPTUNE_PEERS=DIR python -m benchmarks.task_step             # writes results/task_step.json
    KEEPTUNE_PEERS=DIR python -m benchmarks.task_step --quick     # two rounds; prints

As `train_step`, whose rows are those of instruction data. All rows of a classifier or an extractor begin with what is
to be done: here 32 of them behind an instruction of 60 tokens, with texts of median 30 and answers of median 6. Our
step computes it once (`keeptune/data/beginnings.py`), the peers for every row. Without TRL 1.16, which takes twenty
seconds a step.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks import record, train_step
from keeptune.core.machine import calm_process


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if asked.quick else asked.rounds
    rows = train_step.compare("task", rounds, asked.seed, train_step.fitting())
    settings = {"rounds": rounds, "steps_a_turn": train_step.STEPS}
    record.write("task_step", rows, seeds=[asked.seed], quick=asked.quick, by_units=True, **settings)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
