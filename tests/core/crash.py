"""Crashes on purpose, before the n-th disk operation: a process killed, a disk failing, a machine switched off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from keeptune.core import files
from keeptune.core.files import STAGING, TRASH


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, so nothing is cleaned up."""


@contextlib.contextmanager
def watching(watcher: files.Watcher) -> Iterator[None]:
    files.watchers.append(watcher)
    try:
        yield
    finally:
        files.watchers.remove(watcher)


def steps_of(work: Callable[[], None]) -> list[tuple[str, Path]]:
    """The disk operations that `work` makes."""
    seen: list[tuple[str, Path]] = []
    with watching(lambda step, path: seen.append((step, path))):
        work()
    return seen


def failing_at(n: int, error: BaseException) -> files.Watcher:
    """Raises `error` once, before operation number `n`."""
    count = 0

    def watch(step: str, path: Path) -> None:
        nonlocal count
        count += 1
        if count == n + 1:
            raise error

    return watch


def killed_in_a_child(work: Callable[[], None], n: int) -> None:
    """Runs `work` in a forked process that ends without any clean-up before operation `n`."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def watch(step: str, path: Path) -> None:
            nonlocal count
            count += 1
            if count == n + 1:
                os._exit(9)

        files.watchers[:] = [watch]
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    os.waitpid(pid, 0)


class PowerLoss:
    """Remembers what was not yet on the disk, and takes it away.

    The model: the content of a file is safe after its fsync, a name in a folder (a new file or folder, a rename) after
    the folder's fsync. What is not safe may or may not have arrived: unsafe content is cut in half, and `lose`
    takes back the unsafe names, newest first.
    """

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.count = 0
        self.content: set[Path] = set()
        self.names: list[tuple[str, Path, Path]] = []
        self.folders: set[Path] = set()

    def __call__(self, step: str, path: Path) -> None:
        if self.count == self.stop_before:
            raise Killed
        self.count += 1
        if step in ("write", "append"):
            self.content.add(path)
            self._made(path)
        elif step in ("fill", "mkdir"):
            self.names.append(("new", path, path))
        elif step == "sync":
            self.content.discard(path)
            self.names = [entry for entry in self.names if entry[2].parent != path]
        elif step == "rename":
            self._renamed(_source_of(path), path)

    def _made(self, path: Path) -> None:
        """A new file; inside a staging folder also the folders above it, which `fill` makes by its own means."""
        staging = next((above for above in path.parents if above.name.startswith(STAGING)), path.parent)
        folders = [above for above in path.parents if staging in above.parents]
        known = {new for _, _, new in self.names} | self.folders
        self.names += [("new", made, made) for made in (*reversed(folders), path) if made not in known]
        self.folders.update(folders)

    def _renamed(self, source: Path, target: Path) -> None:
        def moved(path: Path) -> Path:
            return target / path.relative_to(source) if path == source or source in path.parents else path

        self.content = {moved(path) for path in self.content}
        self.names = [(kind, moved(old), moved(new)) for kind, old, new in self.names]
        self.names.append(("rename", source, target))

    def lose(self, names: bool) -> None:
        """The lights go out."""
        for path in self.content:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
        for kind, source, target in reversed(self.names if names else []):
            if kind == "rename" and target.exists() and not source.exists():
                os.rename(target, source)
            elif kind == "new":
                files.delete(target)


def _source_of(target: Path) -> Path:
    if target.name.startswith(TRASH):
        return target.with_name(target.name.removeprefix(TRASH))
    file, folder = (target.with_name(f"{STAGING}{name}") for name in (f"{os.getpid()}-{target.name}", target.name))
    return file if file.exists() else folder
