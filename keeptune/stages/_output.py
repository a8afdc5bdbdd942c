"""What a train stage leaves: an adapter folder, or a plain Hugging Face folder when the base itself was trained.

A head that was trained together with the base has a folder of its own inside the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import AdapterRef, Checkpoint, Scope
from keeptune.core.commit import verify, write_commit
from keeptune.engine.book import base_state_dict
from keeptune.models.writing import save_model

if TYPE_CHECKING:
    from keeptune.models.load import Loaded
    from keeptune.stages.train import Train

SNAPSHOT = "snapshot-"
THAWED = "thawed"
"""Folder inside an output, with the earlier adapters that went on learning."""
BESIDE = "beside"
"""Folder inside a base that was trained, with the head that was trained with it."""


@dataclass(frozen=True)
class Output:
    """Writes checkpoints of one stage.

    Attributes:
        loaded: the model that trains.
        name: of the adapter that the stage makes.
        before: the checkpoint that the stage started from; its adapters stay.
        stage: the method, and when its adapter is active.
        folder: the stage's folder.
    """

    loaded: Loaded
    name: str
    before: Checkpoint
    stage: Train
    folder: Path

    def final(self) -> Checkpoint:
        """The stage's result."""
        return self._write("model" if self.stage.trains_base else "adapter")

    def snapshot(self, step: int) -> None:
        """The weights of a step, to be evaluated later; see `snapshots`."""
        self._write(f"{SNAPSHOT}{step:08d}")

    def _write(self, name: str) -> Checkpoint:
        info: dict[str, Any] = {"adapter": self.name, "scope": self.stage.scope}
        info |= {"trains_base": self.stage.trains_base, "adds": self.stage.adds, "thawed": list(self.stage.thaw)}
        path = write_commit(self.folder, name, self._fill, info=info)
        return _checkpoint(self.before, path, **info)

    def _fill(self, folder: Path) -> None:
        from keeptune.methods import save_adapter

        model = self.loaded.model
        for name in self.stage.thaw:
            (folder / THAWED / name).mkdir(parents=True)
            save_adapter(model, name, folder / THAWED / name)
        if self.stage.trains_base:
            save_model(self.loaded, folder, base_state_dict(model))
        if self.stage.adds:
            place = folder / BESIDE if self.stage.trains_base else folder
            place.mkdir(exist_ok=True)
            save_adapter(model, self.name, place)


def snapshots(folder: Path, before: Checkpoint) -> list[tuple[int, Checkpoint]]:
    """The checkpoints that a train stage kept along the way, by step.

    Args:
        folder: of the stage.
        before: the checkpoint that the stage started from.
    """
    found = []
    for path in sorted(folder.glob(f"{SNAPSHOT}*")):
        info = verify(path).info
        found.append((int(path.name.removeprefix(SNAPSHOT)), _checkpoint(before, path, **info)))
    return found


def _checkpoint(
    before: Checkpoint,
    path: Path,
    *,
    adapter: str,
    scope: Scope,
    trains_base: bool,
    adds: bool | None = None,
    thawed: Sequence[str] = (),
) -> Checkpoint:
    adapters = [replace(ref, path=path / THAWED / ref.name) if ref.name in thawed else ref for ref in before.adapters]
    if adds or not trains_base:
        adapters.append(AdapterRef(adapter, path / BESIDE if trains_base else path, scope))
    after = replace(before, adapters=tuple(adapters))
    return replace(after, base=str(path), revision=None) if trains_base else after
