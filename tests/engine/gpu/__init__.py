"""The kernels of a GPU: on one, or without one in Triton's interpreter, `TRITON_INTERPRET=1` (`make test-extras`).

Triton reads the variable when it is imported, so it has to be set before a process begins.
"""

from __future__ import annotations

import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda:0")
