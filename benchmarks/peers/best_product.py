"""What a device's products in bfloat16 reach at best: it takes turns with those whose share of it is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import torch

from benchmarks.peers.clock import clock_of
from benchmarks.peers.pipe import Turns

REPETITIONS = 20


def best(device: str, products: list[list[int]]) -> float:
    """Operations per second of the fastest of `products`: (rows, inputs, outputs), on values drawn from a normal."""
    clock, fastest = clock_of(device), 0.0
    for rows, inputs, outputs in products:
        x = torch.randn(rows, inputs, device=device).bfloat16()
        weight = torch.randn(outputs, inputs, device=device).bfloat16()
        for _ in range(REPETITIONS):
            clock.start()
            torch.nn.functional.linear(x, weight)
            fastest = max(fastest, 2 * rows * inputs * outputs / clock.stop()["seconds"])
    return fastest


def gpu() -> dict[str, Any]:
    """Name, memory and software of the GPU; no name of a machine."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def driver() -> str | None:
    """The driver's version, if its own tool is there to tell."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return said[0] if said else None


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Answers each turn with the best rate of it.

    Args:
        settings: `device`, and `products`.
        turns: the pipe.
    """
    device = settings["device"]
    turns.answer(gpu=gpu() if device == "cuda" else None)
    while True:
        turns.wait()
        rate = best(device, settings["products"])
        clock_of(device).rest()
        turns.answer(rate=rate)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Turns())
