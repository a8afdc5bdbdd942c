"""Our own products of large matrices (`keeptune/engine/native/products.c`) against torch's, at a LoRA step's shapes.

    python -m benchmarks.products            # writes a record for the kind of processor
    python -m benchmarks.products --quick    # prints

Both sides compute the same from the same factors, and a run fails where they differ. A map with its update is one sum
of ours; torch multiplies, rounds, and adds the second product. Both see each shape again and again, unlike a step,
whose numbers of tokens differ. Processor seconds of one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import record, workload
from benchmarks.interleave import interleaved, ratio, timed
from keeptune.core.machine import calm_process
from keeptune.engine.kernel_contract import ProcessorKernels, of_processor
from keeptune.engine.kernels import kernels_of

WIDTH, INNER = workload.SHAPE["hidden_size"], workload.SHAPE["intermediate_size"]
VOCABULARY, RANK = workload.SHAPE["vocab_size"], 16
TOKENS, READ = 1200, 480
AT_LEAST = 1e10
"""Operations of a turn."""

Pairs = list[tuple[Tensor, Tensor]]


def products(dtype: torch.dtype, seed: int) -> dict[str, Pairs]:
    """The factors of each sum of products."""
    draw = torch.Generator().manual_seed(seed)

    def of(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    x, up, u, B = of(TOKENS, WIDTH), of(INNER, WIDTH), of(TOKENS, RANK), of(INNER, RANK)
    g, v, A, h, head = of(TOKENS, INNER), of(TOKENS, RANK), of(RANK, WIDTH), of(READ, WIDTH), of(VOCABULARY, WIDTH)
    return {
        "a map": [(x, up.T)],
        "a map and its update": [(x, up.T), (u, B.T)],
        "the gradient through both": [(g, up), (v, A)],
        "the head": [(h, head.T)],
        "the head's gradient": [(of(READ, VOCABULARY), head)],
        "A x of an update": [(x, A.T)],
        "the gradient in A": [(v.T, x)],
    }


def by_torch(pairs: Pairs) -> Tensor:
    """The first product, and the others added in place."""
    total = pairs[0][0] @ pairs[0][1]
    for a, b in pairs[1:]:
        total.addmm_(a, b)
    return total


def measured(kernels: ProcessorKernels, dtype: torch.dtype, rounds: int, seed: int) -> list[dict[str, Any]]:
    """A row of the record for each sum."""
    rows = []
    for what, pairs in products(dtype, seed).items():
        ours, theirs = kernels.summed(*pairs), by_torch(pairs)
        assert (ours - theirs).norm() <= (2**-7 if dtype == torch.bfloat16 else 1e-5) * theirs.norm(), what
        work = sum(2 * a.numel() * b.shape[1] for a, b in pairs)
        times = int(AT_LEAST / work) + 1

        def turn(one: Callable[[], Tensor], times: int = times) -> Callable[[int], float]:
            return lambda _: timed(lambda: [one() for _ in range(times)]) / times

        sides = {"own": turn(partial(kernels.summed, *pairs)), "torch": turn(partial(by_torch, pairs))}
        seconds = interleaved(sides, rounds, seed)
        rows.append(
            {
                "what": f"{what}, {str(dtype).removeprefix('torch.')}",
                "peer": "torch",
                "speed": ratio(seconds["torch"], seconds["own"]),
                "own_gigaflops": round(work / median(seconds["own"]) / 1e9),
                "peer_gigaflops": round(work / median(seconds["torch"]) / 1e9),
            }
        )
    return rows


def main() -> int:
    """Measures and writes the record; 1 where the function does not serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for dtype in (getattr(torch, name) for name in record.dtypes()):
        kernels = of_processor(kernels_of(torch.device("cpu"), dtype))
        if kernels is None or not kernels.multiplies:
            print(f"products: on this processor torch's serve in {dtype}")
            continue
        rows += measured(kernels, dtype, 3 if asked.quick else asked.rounds, asked.seed)
    if rows:
        record.write("products", rows, seeds=[asked.seed], quick=asked.quick, by_units=True, rounds=asked.rounds)
    return int(not rows)


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
