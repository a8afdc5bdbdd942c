"""Where the kernels of a GPU can run, and Triton's interpreter rounding to bfloat16 as a GPU does."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.engine.gpu import DEVICE, INTERPRETED

THERE = importlib.util.find_spec("triton") is not None
collect_ignore = [] if THERE else ["test_compiled.py"]
if not THERE or (DEVICE.type == "cpu" and not INTERPRETED):
    collect_ignore += ["test_kernels.py", "test_step.py"]


@pytest.fixture(autouse=True)
def _rounds_to_nearest(monkeypatch):
    """The interpreter cuts off what a bfloat16 has no place for; a GPU rounds."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    cut = interpreter._convert_float

    def rounded(numbers, source, target, mode):
        if (source.name, target.name) != ("fp32", "bf16"):
            return cut(numbers, source, target, mode)
        narrow = torch.from_numpy(np.ascontiguousarray(numbers)).bfloat16()
        return narrow.view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)
