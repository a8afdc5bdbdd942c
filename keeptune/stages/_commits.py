"""Training state on disk: safetensors and JSON inside the commit protocol.

    <stage>/commits-<digest of the exactness set>/step-<n>/
        weights.safetensors      trained parameters by name, float32 masters, and what methods remember
        optimizer.safetensors    state tensors as <parameter number>.<key>
        optimizer.json           the rest of the state, and the groups
        random.safetensors, random.json
        trainer_state.json       as transformers.Trainer reads it
        state.json               ours: rate scale, best step, counters

Another exactness set is another folder: what was written under other settings is never resumed by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from keeptune.core.commit import MANIFEST, newest_valid, prune, verify, write_commit
from keeptune.core.digest import digest_of, file_digest
from keeptune.core.errors import ModelError
from keeptune.core.exactness import differences, refusal
from keeptune.core.files import read_json, write_json
from keeptune.core.run import Run
from keeptune.stages._random import RandomState

WEIGHTS = "weights.safetensors"
PREFIX = "step-"


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        step: optimiser steps done already.
        weights: trained parameters to take over; None: as the method starts them.
        commit: the commit to resume everything else from; None: a fresh optimiser.
    """

    step: int = 0
    weights: dict[str, Tensor] | None = None
    commit: Path | None = None


class Commits:
    """The commits of one stage under one exactness set."""

    def __init__(self, folder: Path, exactness: Mapping[str, Any], keep: int) -> None:
        self.folder, self.exactness, self.keep = folder, dict(exactness), keep
        self.parent = folder / f"commits-{digest_of(self.exactness)[:12]}"
        self.protected: set[Path] = set()

    def path(self, step: int) -> Path:
        """The folder of a step's commit."""
        return self.parent / f"{PREFIX}{step:08d}"

    def write(self, step: int, fill: Any) -> Path:
        """Commits a step and prunes old ones."""
        info = {"step": step, "exactness": self.exactness}
        folder = write_commit(self.parent, self.path(step).name, fill, info=info)
        prune(self.parent, self.keep, self.protected, prefix=PREFIX)
        return folder

    def newest(self) -> int | None:
        """The step of the newest valid commit."""
        found = newest_valid(self.parent, PREFIX)
        return None if found is None else int(found.info["step"])

    def weights(self, step: int) -> dict[str, Tensor]:
        """The trained parameters of a commit."""
        verify(self.path(step))
        weights: dict[str, Tensor] = load_file(self.path(step) / WEIGHTS)
        return weights

    def start(self, run: Run, *, weights_only: bool = False) -> Start:
        """Where this process begins: the newest valid commit, the weights of other settings (`--fork`), or afresh.

        Raises:
            RecipeError: the stage was begun with other settings (E-RESUME-DIFFERENT).
            ModelError: every commit is damaged (E-RESUME-DAMAGED).
        """
        found = newest_valid(self.parent, PREFIX)
        for path, reason in found.skipped if found else ():
            run.event("commit_skipped", path=path.relative_to(run.folder), reason=reason)
        if found is not None:
            return Start(int(found.info["step"]), load_file(found.folder / WEIGHTS), found.folder)
        if any(self.parent.glob(f"{PREFIX}*")):
            return self._from_damaged(run, weights_only)
        return self._from_other_settings(run)

    def _from_damaged(self, run: Run, weights_only: bool) -> Start:
        for folder in sorted(self.parent.glob(f"{PREFIX}*"), reverse=True):
            if weights_only and _weights_are_whole(folder):
                step = int(folder.name.removeprefix(PREFIX))
                run.event("not_exact", reason="resumed from weights alone", path=folder.relative_to(run.folder))
                return Start(step, load_file(folder / WEIGHTS))
        raise ModelError(
            "every commit of this stage is damaged or incomplete.",
            code="E-RESUME-DAMAGED",
            where={"file": str(self.parent)},
            why="Without the optimiser's state, training would not go on as it was.",
            fix="Delete the folder to start the stage again, or add --weights-only to go on from the newest weights.",
        )

    def _from_other_settings(self, run: Run) -> Start:
        others = [path for path in self.folder.glob("commits-*") if path.is_dir()]
        older = [commit for path in others if (commit := newest_valid(path, PREFIX)) is not None]
        if not older:
            return Start()
        newest = max(older, key=lambda commit: (commit.folder / MANIFEST).stat().st_mtime_ns)
        if not run.fork:
            raise refusal(self.folder, differences(newest.info["exactness"], self.exactness))
        run.event("forked", weights=newest.folder.relative_to(run.folder))
        return Start(0, load_file(newest.folder / WEIGHTS))


def write_state(folder: Path, kept: list[tuple[str, Tensor]], optimizer: Any, plain: Any) -> None:
    """Everything of a commit but Trainer's own file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in kept}, folder / WEIGHTS)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for number, entries in state["state"].items():
        for key, value in entries.items():
            place: dict[str, Any] = tensors if isinstance(value, Tensor) else scalars
            place[f"{number}.{key}"] = value
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / "optimizer.safetensors"
    )
    write_json(folder / "optimizer.json", {"scalars": scalars, "groups": state["param_groups"]})
    generators = RandomState.capture()
    save_file(generators.tensors, folder / "random.safetensors")
    write_json(folder / "random.json", generators.plain)
    write_json(folder / "state.json", plain)


def read_optimizer(folder: Path) -> dict[str, Any]:
    """The `state_dict` of an optimiser."""
    plain = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / "optimizer.safetensors"), **plain["scalars"]}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": plain["groups"]}


def read_random(folder: Path) -> RandomState:
    """The generators as they were at the commit."""
    return RandomState(load_file(folder / "random.safetensors"), read_json(folder / "random.json"))


def read_state(folder: Path) -> dict[str, Any]:
    """Our own counters."""
    plain: dict[str, Any] = read_json(folder / "state.json")
    return plain


def _weights_are_whole(folder: Path) -> bool:
    try:
        expected = read_json(folder / MANIFEST)["files"][WEIGHTS]["sha256"]
        return bool(file_digest(folder / WEIGHTS) == expected)
    except (OSError, ValueError, KeyError, TypeError):
        return False
