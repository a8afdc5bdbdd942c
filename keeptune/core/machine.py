"""What this machine has: processor, memory, disk, packages. Nothing heavy is imported."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

REQUIRED = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "pydantic", "numpy", "scipy")
EXTRAS = {
    "rl": ("trl", "preference and RL stages"),
    "eval": ("lm-eval", "the tasks of lm-evaluation-harness"),
    "data": ("scikit-learn", "clustering, near duplicates, sentence encoders"),
    "quant": ("bitsandbytes", "4-bit bases and 8-bit optimisers"),
    "serve": ("fastapi", "the OpenAI-compatible server"),
    "scale": ("ray", "studies over many machines"),
}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: a name, what was found, and how to add it when it is missing."""

    name: str
    found: str
    ok: bool = True
    fix: str = ""

    def to_dict(self) -> dict[str, str | bool]:
        """Plain data."""
        return {"name": self.name, "found": self.found, "ok": self.ok, "fix": self.fix}


def findings(folder: Path) -> list[Finding]:
    """What can be said without importing torch; `folder` is where runs would be written."""
    lines = [
        Finding("python", platform.python_version()),
        Finding("processor", f"{os.cpu_count()} threads, {_matrix_units()}"),
        Finding("memory", f"{available_memory() / 2**30:.1f} GiB available"),
        _disk(folder),
    ]
    for name in REQUIRED:
        version = version_of(name)
        lines.append(Finding(name, version or "missing", bool(version), "" if version else "pip install keeptune"))
    for extra, (package, purpose) in EXTRAS.items():
        version = version_of(package)
        fix = "" if version else f"pip install 'keeptune[{extra}]'"
        lines.append(Finding(f"optional: {package}", version or f"not installed ({purpose})", True, fix))
    return lines


def device_finding() -> Finding:
    """Which accelerator torch sees; imports torch."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    return Finding("device", "cpu (no CUDA device is visible to torch)")


def dtype_finding(auto: str) -> Finding:
    """What `dtype: auto` comes to."""
    return Finding("dtype", f"auto takes {auto}")


def kernels_finding(device: str, *, compiled: bool) -> Finding:
    """Whether there are kernels made for this device, `cpu` or `cuda` (`engine/kernels`)."""
    if compiled:
        return Finding("kernels", f"compiled for this {'processor' if device == 'cpu' else 'GPU'}")
    fix = "install a C compiler with OpenMP (gcc)" if device == "cpu" else "install triton and a C compiler (gcc)"
    return Finding("kernels", "none: training takes longer", True, fix)


def calm_process() -> None:
    """Settings of this process that must stand before torch is imported; they change speed, never results.

    Threads that wait by spinning make a busy machine several times slower, so OpenMP is told to let them sleep. And
    glibc gives blocks of some megabytes back to the system after every step, only to have them cleared and mapped again
    at the next; it is told to keep them (`give_back_memory` returns them between two phases of a run). And oneDNN keeps
    the code that it makes for each shape of a product; packed batches differ in length, so that a thousand of them,
    its default, are some hundred megabytes that are never used again. bitsandbytes advises another package whenever
    transformers loads it, asked for or not.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_errors_only)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_M_MMAP_THRESHOLD, 2**25), (_M_TRIM_THRESHOLD, 2**28)):
            mallopt(parameter, value)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def give_back_memory() -> None:
    """Returns freed blocks to the system: what one phase of a run needed is not held through the next."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def processor_says(*keys: str) -> str:
    """What the kernel of the system tells of the first processor under the first of these names that it knows."""
    told = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in told.read_text().splitlines()] if told.exists() else []
    return next((value.strip() for key, _, value in lines if key.strip() in keys), "")


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def available_memory() -> int:
    """Bytes of memory that a new process could take; in a container, no more than its limit leaves."""
    limit = _limit_left()
    return _machine_memory() if limit is None else min(_machine_memory(), limit)


def free_memory(*, gpu: bool) -> int:
    """Bytes that this process can still take on the GPU, or on the processor's side."""
    if not gpu:
        return available_memory()
    import torch

    held_back = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + held_back


def _limit_left(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a control group's limit leaves, cached files not counted as taken; None without a limit."""
    try:
        limit, taken = (root / "memory.max").read_text().strip(), int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - taken + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _machine_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size


def _disk(folder: Path) -> Finding:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    writable = os.access(place, os.W_OK)
    found = f"{free:.1f} GiB free" + ("" if writable else ", but it cannot be written to")
    fix = "" if writable else "Choose another folder with --output."
    return Finding("run folder", found, writable, fix)


def _matrix_units() -> str:
    flags = processor_says("flags").split()
    for flag, name in (("amx_bf16", "AMX bf16"), ("avx512_bf16", "AVX512 bf16"), ("avx2", "AVX2")):
        if flag in flags:
            return name
    return platform.machine()
