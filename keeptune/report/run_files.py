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


def part_of(folder: Path, name: str) -> Path:
    """A file that every finished run has.

    Raises:
        MachineError: there is no such folder (E-RUN-MISSING), or the run in it is not finished (E-RUN-UNFINISHED).
    """
    if not folder.is_dir():
        raise MachineError(
            "there is no such run folder.", code="E-RUN-MISSING", where={"file": folder},
            fix="Check the path; a run is kept in runs/NAME, or where --output said.",
        )  # fmt: skip
    if not (folder / name).is_file():
        raise MachineError(
            f"this folder holds no finished run: there is no {name}.", code="E-RUN-UNFINISHED",
            where={"file": folder}, fix="Finish it with `keeptune run`, or give the folder of a finished one.",
        )  # fmt: skip
    return folder / name


def read_run(folder: Path) -> RunFiles:
    """Reads a finished run.

    Raises:
        MachineError: there is no such folder (E-RUN-MISSING), or it holds no certificate (E-RUN-UNFINISHED).
    """
    return RunFiles(
        folder=folder,
        certificate=json.loads(part_of(folder, "certificate.json").read_text(encoding="utf-8")),
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
