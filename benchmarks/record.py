"""The record of a measurement: what was measured, on which processor, with which libraries, by which command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
UNITS = ("amx_bf16", "avx512_bf16")
LIBRARIES = ("keeptune", "torch", "transformers", "peft", "numpy")
FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")


def machine() -> dict[str, Any]:
    """The processor's model, its matrix units and the number of cores; no name of a machine, no path."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", "unknown"),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
    }


def units(machine: dict[str, Any]) -> str:
    """What multiplies bfloat16 there: the name of the best unit, or `none`."""
    return next((flag for flag in UNITS if flag in machine["flags"]), "none")


def dtypes() -> tuple[str, ...]:
    """In what this processor computes fast: float32, and bfloat16 if it has units for it."""
    return ("float32",) if units(machine()) == "none" else ("float32", "bfloat16")


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python and of `packages`; those that are missing are left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def without_paths(**places: Path | None) -> None:
    """Replaces paths of the command line by the names under which the record shows them."""
    names = {path: name for name, path in places.items()}
    sys.argv[1:] = [names.get(Path(word), word) for word in sys.argv[1:]]


def write(
    name: str,
    rows: Sequence[dict[str, Any]],
    *,
    seeds: Sequence[int],
    quick: bool = False,
    by_units: bool = False,
    part: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Writes `results/<name>.json` and prints its rows; a quick look is printed only.

    Args:
        name: of the benchmark, which is also its module.
        rows: what was found, one comparison or figure each.
        seeds: of whatever was drawn.
        quick: fewer rounds than a figure needs.
        by_units: one record for each kind of processor, `results/<name>.<units>.json`: what is found depends on them.
        part: one record for each of several kinds of work, `results/<name>.<part>.json`.
        more: what else belongs to the record.
    """
    report = {
        "command": command(name),
        "machine": machine(),
        "versions": versions(*LIBRARIES),
        "seeds": list(seeds),
        **more,
        "rows": list(rows),
    }
    for row in rows:
        print(json.dumps(row))
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(report, indent=1) + "\n"
        place(name, units(report["machine"]) if by_units else part).write_text(text, encoding="utf-8")
    return report


def command(name: str) -> str:
    """The command line that runs."""
    return " ".join([f"python -m benchmarks.{name}", *sys.argv[1:]])


def place(name: str, part: str = "") -> Path:
    """The file of a record, or of a part of it."""
    return RESULTS / (f"{name}.{part}.json" if part else f"{name}.json")
