"""What a piece of work cost: wall-clock seconds and peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Usage:
    """Filled when the block that `measured` guards is left.

    Attributes:
        seconds: wall-clock time.
        peak_bytes: highest resident memory of this process in the block (of its whole life where the system keeps
            no resettable mark).
        peak_device_bytes: highest memory on the accelerator in the block; 0 without one.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    peak_device_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Measures the block; blocks do not nest, for the mark of peak memory is the process's only one."""
    usage, cuda = Usage(), _cuda()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    start = time.monotonic()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - start
        usage.peak_bytes = peak_bytes()
        cuda = _cuda()
        usage.peak_device_bytes = int(cuda.max_memory_allocated()) if cuda is not None else 0


def peak_bytes() -> int:
    """The high-water mark of this process's resident memory."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Memory that this process holds now; its high-water mark where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return peak_bytes()


def hours_of(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """The wall-clock hours of runs together, by their `seconds`; None where a run was recorded without them."""
    seconds = [run.get("seconds") for run in runs]
    known = [one for one in seconds if one is not None]
    return round(sum(known) / 3600, 3) if len(known) == len(seconds) else None


def _cuda() -> Any:
    """`torch.cuda` when somebody has loaded torch and started CUDA; this file does neither."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
