"""Tensors kept under a digest of everything that decides them: computed once, read by every run that shares a folder.

One file per entry, `<key>.safetensors`, with the SHA-256 of its tensors in the header. An entry is written beside its
place and moved there in one step, so several processes may share a folder: the last one that writes an entry stands,
whole, and it holds the same tensors. An entry that cannot be read, or that does not match its own digest, is computed
again. The folder stays below a limit: the entries that were not read for the longest time go first.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from keeptune.core.files import STAGING, atomic_write, delete, make_folder

SUFFIX = ".safetensors"
LIMIT_BYTES = 8 << 30
ABANDONED_SECONDS = 24 * 3600
"""Older than this, what a killed process left beside its place is no longer being written."""

Tensors = Mapping[str, Tensor]


class TensorStore:
    """A folder of entries.

    Args:
        folder: made when the first entry is written.
        limit_bytes: of all entries together; an entry larger than it is not kept.
        note: told when an entry was damaged, in one sentence.
    """

    def __init__(
        self, folder: Path, *, limit_bytes: int = LIMIT_BYTES, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.folder, self.limit_bytes, self.note = folder, limit_bytes, note

    def once(self, key: str, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """The tensors of `key`, made by `make` when no whole entry holds them."""
        found = self.read(key)
        if found is None:
            found = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
            self.write(key, found)
        return found

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None when there is no whole one."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                digest = (file.metadata() or {}).get("digest")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            if digest == tensors_digest(tensors):
                os.utime(path)
                return tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError):
            pass
        self.note(f"A cached entry is damaged and is computed again ({path.name[:12]}).")
        return None

    def write(self, key: str, tensors: Tensors) -> None:
        """Keeps an entry, and removes the oldest ones above the limit."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size > self.limit_bytes:
            return
        make_folder(self.folder)
        atomic_write(self._path(key), save(dict(tensors), metadata={"digest": tensors_digest(tensors)}))
        self._prune()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _prune(self) -> None:
        """Another process may be doing the same: what is gone already is no error."""
        entries = []
        for path in self.folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.name.startswith(STAGING) and time.time() - stat.st_mtime > ABANDONED_SECONDS:
                delete(path)
            elif path.suffix == SUFFIX and not path.name.startswith(STAGING):
                entries.append((stat.st_mtime, stat.st_size, path))
        held = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if held <= self.limit_bytes:
                break
            delete(path)
            held -= size


def tensors_digest(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
