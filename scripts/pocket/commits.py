"""Atomic checkpoints of a pretraining run: safetensors and JSON in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from network import Network
from optimiser import Optimiser
from safetensors.torch import load_file, save_file

KEPT = 2


def commit(folder: Path, network: Network, optimiser: Optimiser, state: dict[str, Any]) -> Path:
    """Write `step-N` under `folder` and drop all but the newest `KEPT` commits."""
    target = folder / f"step-{state['step']:07d}"
    if target.exists():
        return target
    staging = folder / f".staging-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file({n: p.detach().contiguous() for n, p in network.named_parameters()}, staging / "model.safetensors")
    save_file(optimiser.state, staging / "optimiser.safetensors")
    content = json.dumps({**state, "optimiser_steps": optimiser.count}, indent=2)
    (staging / "state.json").write_text(content + "\n", encoding="utf-8")
    os.replace(staging, target)
    for old in commits(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def commits(folder: Path) -> list[Path]:
    """The committed checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def restore(checkpoint: Path, network: Network, optimiser: Optimiser | None = None) -> dict[str, Any]:
    """Load a commit into the network and, where given, the optimiser; returns the run's state."""
    weights = load_file(checkpoint / "model.safetensors")
    for name, parameter in network.named_parameters():
        parameter.data.copy_(weights[name])
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    count = state.pop("optimiser_steps")
    if optimiser is not None:
        optimiser.count = count
        for name, tensor in load_file(checkpoint / "optimiser.safetensors").items():
            optimiser.state[name].copy_(tensor)
    return state
