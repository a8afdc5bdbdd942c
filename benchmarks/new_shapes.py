"""What the first product of a shape costs beside the next ones: why sizes are made even (`keeptune/engine/even.py`).

    python -m benchmarks.new_shapes            # writes results/new_shapes.json
    python -m benchmarks.new_shapes --quick    # prints

Each kind of product of the workload's model runs at so many numbers of rows, one after the other, each of them new to
the process, and three times more. Processor seconds of one thread; the median over the numbers of rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import record, workload
from keeptune.core.machine import calm_process

WIDTH, INNER = workload.SHAPE["hidden_size"], workload.SHAPE["intermediate_size"]
VOCABULARY, HEAD_WIDTH = workload.SHAPE["vocab_size"], WIDTH // workload.SHAPE["num_attention_heads"]
GROUPS = workload.SHAPE["num_key_value_heads"]


def products(dtype: torch.dtype) -> dict[str, tuple[int, Callable[[int], tuple[Tensor, ...]]]]:
    """Of each kind, the number of rows to begin with, and its factors at a number of rows."""

    def of(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    up, head = of(WIDTH, INNER), of(VOCABULARY, WIDTH)
    return {
        "a map of the feed-forward layer": (900, lambda rows: (of(rows, WIDTH), up)),
        "an update of rank 16": (900, lambda rows: (of(rows, 16), up[:16])),
        "the head": (200, lambda rows: (of(rows, WIDTH), head.T)),
        "the head's gradient": (200, lambda rows: (of(rows, VOCABULARY), head)),
        "scores of a row": (60, lambda rows: (of(GROUPS, rows, HEAD_WIDTH), of(GROUPS, HEAD_WIDTH, rows))),
    }


def timed(factors: tuple[Tensor, ...]) -> float:
    """Processor seconds of one product."""
    start = time.process_time()
    torch.matmul(*factors)
    return time.process_time() - start


def measured(dtype: torch.dtype, count: int) -> list[dict[str, Any]]:
    """A row of the record for each kind."""
    rows = []
    for what, (least, factors) in products(dtype).items():
        first, later = [], []
        for number in range(least, least + count):
            given = factors(number)
            first.append(timed(given))
            later.append(min(timed(given) for _ in range(3)))
        rows.append(
            {
                "what": f"{what}, {str(dtype).removeprefix('torch.')}",
                "rows": f"{least} to {least + count - 1}",
                "first_ms": round(1e3 * median(first), 3),
                "later_ms": round(1e3 * median(later), 3),
            }
        )
    return rows


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    count = 5 if asked.quick else asked.shapes
    rows = [row for dtype in (torch.bfloat16, torch.float32) for row in measured(dtype, count)]
    record.write("new_shapes", rows, seeds=[asked.seed], quick=asked.quick, shapes=count)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
