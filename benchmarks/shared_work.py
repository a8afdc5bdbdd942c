"""Two ways of laying out the same training signal, interleaved, beside the ratio of their arithmetic.

`multi_turn` and `shared_prefix` are this comparison on two kinds of data.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import flops, record, workload
from benchmarks.interleave import interleaved, middle, ratio, timed
from keeptune.core.machine import calm_process
from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.methods import LoRA
from keeptune.models.load import load
from keeptune.stages._step import Objective

RANK = 16
Rows = Sequence[Encoded]


def adapted(model: Any) -> Any:
    """The model with LoRA of rank 16 on all linear maps, away from its start so that every gradient is alive."""
    LoRA(rank=RANK).attach(model, "lora")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


@contextmanager
def alone() -> Iterator[None]:
    """Inside it, rows of a training step are packed as they are, whatever they begin with."""
    with mock.patch("keeptune.stages._step.pack_shared", pack):
        yield


def same_step(objective: Objective, slow: Rows, fast: Rows) -> dict[str, float]:
    """Losses and gradients of both layouts agree: relative differences, the gradients' to each largest entry."""
    with alone():
        result = objective.backward(slow)
    gradients = [gradient.clone() for gradient in objective.masters.gradients]
    other = objective.backward(fast)
    assert result.learned == other.learned, "both layouts teach the same tokens"
    pairs = zip(gradients, objective.masters.gradients, strict=True)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    differences = {"loss": abs(result.loss - other.loss) / abs(other.loss), "gradient": worst}
    assert max(differences.values()) < 1e-5, f"the layouts differ: {differences}"
    return differences


def race(objective: Objective, slow: Rows, fast: Rows, rounds: int, seed: int) -> dict[str, Any]:
    """Times of one gradient of the rows alone, and as the train stage lays them out."""

    def rows_alone(_: int) -> float:
        with alone():
            return timed(lambda: objective.backward(slow))

    ways = {"slow": rows_alone, "fast": lambda _: timed(lambda: objective.backward(fast))}
    seconds = interleaved(ways, rounds, seed, warm=2)
    found = ratio(seconds["slow"], seconds["fast"])
    return {"own_seconds": middle(seconds["fast"]), "peer_seconds": middle(seconds["slow"]), "speed": found}


def arithmetic(work: flops.Work) -> int:
    """Useful FLOPs of a layout on the model of `workload`."""
    return flops.low_rank_step(flops.Shape.of(workload.SHAPE), work, RANK)


def compared(row: dict[str, Any], arithmetic_ratio: float, token_ratio: float) -> dict[str, Any]:
    """The row with both bounds, and the share of the arithmetic one that was reached."""
    bounds = {"arithmetic_ratio": round(arithmetic_ratio, 3), "token_ratio": round(token_ratio, 3)}
    return {**row, **bounds, "share_of_arithmetic": round(row["speed"]["median"] / arithmetic_ratio, 3)}


def main(name: str, says: str, cases: Sequence[Any], compare: Callable[[Any, Any, int, int], dict[str, Any]]) -> int:
    """Measures every case and writes the record.

    Args:
        name: of the benchmark.
        says: its first line.
        cases: what `compare` is asked for, one after the other.
        compare: takes the model, a case, the number of rounds and the seed; gives a row of the record.
    """
    parser = argparse.ArgumentParser(description=says)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    calm_process()
    torch.set_num_threads(1)
    rounds = 2 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory() as made:
        folder = workload.write_model(Path(made) / "model", asked.seed)
        model = adapted(load(folder, dtype="float32", device="cpu").model)
        rows = [compare(model, case, rounds, asked.seed) for case in cases]
    record.write(name, rows, seeds=[asked.seed], quick=asked.quick, rounds=rounds)
    return 0
