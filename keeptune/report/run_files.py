"""What the page reads: the files of a run folder, nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeptune.core.errors import MachineError


@dataclass(frozen=True)
class RunFiles:
    """The parts of a run folder that a page can show; absent files are empty."""

    folder: Path
    certificate: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    trail: list[dict[str, Any]] = field(default_factory=list)


def read_run(folder: Path) -> RunFiles:
    """Reads a finished run.

    Raises:
        MachineError: the folder holds no certificate (E-RUN-UNFINISHED).
    """
    certificate = folder / "certificate.json"
    if not certificate.is_file():
        raise MachineError(
            "this folder holds no certificate.",
            code="E-RUN-UNFINISHED",
            where={"file": folder},
            fix="Finish the run with `keeptune run`, or give the folder of a finished one.",
        )
    return RunFiles(
        folder=folder,
        certificate=json.loads(certificate.read_text(encoding="utf-8")),
        recipe=_json(folder / "recipe.json"),
        data=_json(folder / "data.json"),
        metrics=list(_lines(folder / "metrics.jsonl")),
        events=list(_lines(folder / "events.jsonl")),
        items=list(_lines(folder / "items.jsonl.gz")),
        trail=list(_lines(folder / "trail.jsonl")),
    )


def talked_to(folder: Path, certificate: Mapping[str, Any]) -> Path | None:
    """The run inside `folder` that `keeptune chat` opens; None where there is none, or it writes nothing."""
    return None if certificate.get("drift") is None else made_by(folder, certificate)


def made_by(folder: Path, certificate: Mapping[str, Any]) -> Path | None:
    """The run inside `folder` that made the model: itself or its worst seed; None for a proof of two models."""
    seeds = certificate.get("seeds")
    worst = seeds.get("worst") if isinstance(seeds, Mapping) else None
    places = (Path(), *([Path("seeds", str(worst))] if worst is not None else []))
    return next((place for place in places if (folder / place / "checkpoint.json").is_file()), None)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
