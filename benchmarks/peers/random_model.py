"""Writes the weights that all contestants of a large shape load: random, in bfloat16, drawn on the GPU if there is one.

A process of its own, so that whoever starts it holds no memory of the device.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks import workload

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workload.write_model(Path(asked["folder"]), asked["seed"], dtype=torch.bfloat16, device=device, **asked["shape"])
