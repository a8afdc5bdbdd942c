"""Where the time of a LoRA step goes: matrix products, attention, head and loss, the rest.

    python -m benchmarks.step_profile            # writes a record for the kind of processor
    python -m benchmarks.step_profile --quick    # one step; prints

Shares are of the time that operators spend themselves, by torch's profiler, in one thread. Products are those of linear
maps, their updates and the head; attention is everything with heads as a dimension; the rest is norms, SwiGLU, rotary
embedding, residuals, casts and the softmax of the loss. The bound is what the useful arithmetic of the step would take
at the rate of the best product of the same shapes in the same process; beside it stand the rates that the step's own
products reach: those of frozen maps, of the head, and the narrow ones of the updates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import flops, record, workload
from benchmarks.peak import peak
from benchmarks.peers.session import encoded, objective_of
from keeptune.core.machine import calm_process
from keeptune.engine.native.kernels import Kernels
from keeptune.methods import LoRA
from keeptune.models.load import load
from keeptune.stages._step import Objective

RANK = 16
MOST_NARROW = 4 * RANK
"""Updates of up to three maps share a product; no map is as narrow as four."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
OWN = "keeptune::summed"
"""Our own products, which torch does not know: behind the name, their group and their operations."""
SUMMED = Kernels.summed
ATTENTION = ("aten::bmm", "aten::_scaled_dot_product_flash_attention_for_cpu")


def kind_of(name: str, shapes: list[list[int]]) -> str:
    """Which share of the step an operator belongs to."""
    if name in PRODUCTS or name.startswith(OWN):
        return "products"
    if name.startswith(ATTENTION) or (shapes and len(shapes[0]) >= 3):
        return "attention"
    return "rest"


def group_of(sizes: tuple[int, int, int]) -> str:
    """Whose product it is, by its (M, K, N)."""
    if workload.SHAPE["vocab_size"] in sizes:
        return "head"
    return "updates" if min(sizes) < MOST_NARROW else "maps"


def seen_summed(kernels: Kernels, *pairs: tuple[Tensor, Tensor], **named: Any) -> Tensor:
    """`Kernels.summed` under a name that tells the profiler what it multiplies."""
    sizes = [(*a.shape, b.shape[1]) for a, b in pairs]
    work = sum(2 * m * k * n for m, k, n in sizes)
    with record_function(f"{OWN} {group_of(sizes[0])} {work}"):
        return SUMMED(kernels, *pairs, **named)


def watched(objective: Objective, rows: Any, steps: int) -> dict[str, dict[str, float]]:
    """In `steps` steps: the share of each kind in the time, and 1e9 operations a second of each group of products.

    Kernels run where they are called: together, they would take their time where none of them has a name.
    """
    watching = mock.patch.object(Kernels, "summed", seen_summed)
    alone = mock.patch.object(Kernels, "together", return_value=nullcontext())
    with watching, alone, profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for _ in range(steps):
            objective.backward(rows)
    spent = dict.fromkeys(("products", "attention", "rest"), 0.0)
    groups = {group: [0.0, 0.0] for group in ("maps", "head", "updates")}
    for event in seen.key_averages(group_by_input_shape=True):
        kind, taken = kind_of(event.key, event.input_shapes), event.self_cpu_time_total
        spent[kind] += taken
        if event.key.startswith(OWN):
            _, group, work = event.key.split()
            groups[group][0] += int(work) * event.count
            groups[group][1] += taken
        elif kind == "products":
            (m, k), (_, n) = event.input_shapes[:2] if event.key == "aten::mm" else event.input_shapes[1:3]
            done = groups[group_of((m, k, n))]
            done[0] += 2 * m * k * n * event.count
            done[1] += taken
    return {
        "shares": {kind: round(time / sum(spent.values()), 3) for kind, time in spent.items()},
        "gigaflops": {group: round(work / time / 1e3) for group, (work, time) in groups.items()},
    }


def measured(dtype: str, rows: Any, folder: Path, steps: int) -> dict[str, Any]:
    """One row of the record."""
    model = load(folder, dtype=dtype, device="cpu").model
    LoRA(rank=RANK).attach(model, "task")
    objective, seconds = objective_of(model), []
    for _ in range(2 + steps):
        start = time.process_time()
        objective.backward(rows)
        seconds.append(time.process_time() - start)
    work = flops.Work.of([row.learned for row in rows])
    useful = flops.low_rank_step(flops.Shape.of(workload.SHAPE), work, RANK)
    rate, step = peak(getattr(torch, dtype), 20), median(seconds[2:])
    return {
        "what": f"LoRA step, {dtype}",
        "path": model.body_path,
        "seconds": round(step, 3),
        "bound_seconds": round(useful / rate, 3),
        "share_of_the_bound": round(useful / rate / step, 3),
        "peak_gigaflops": round(rate / 1e9),
        **watched(objective, rows, max(1, steps // 2)),
    }


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = encoded(workload.draw_rows(workload.ROWS_PER_STEP, asked.seed))
    with tempfile.TemporaryDirectory() as made:
        folder = workload.write_model(Path(made) / "model", asked.seed)
        steps = 1 if asked.quick else asked.steps
        found = [measured(dtype, rows, folder, steps) for dtype in record.dtypes()]
    record.write("step_profile", found, seeds=[asked.seed], quick=asked.quick, by_units=True, steps=steps)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
