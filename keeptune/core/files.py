"""Writing files so that a crash leaves either the old content or the new one.

Every change of the disk goes through the small functions of this file, and each announces itself first to
`watchers`. In production that list is empty; a test puts a callable on it and so stops, fails or records a
write at any boundary.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STAGING = ".staging-"
TRASH = ".trash-"

Watcher = Callable[[str, Path], None]
"""Called with a step (`mkdir write append fill sync rename delete cut`) and the path that is about to change."""

watchers: list[Watcher] = []


def announce(step: str, path: Path) -> None:
    """Tells the watchers what is about to happen."""
    for watcher in watchers:
        watcher(step, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Creates or overwrites a file; neither atomic nor durable by itself."""
    announce("write", path)
    path.write_bytes(data)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the entries of a folder, are on the disk (fsync)."""
    announce("sync", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Moves a file or folder within one file system in one step; an existing file `target` is replaced."""
    announce("rename", target)
    os.replace(source, target)


def delete(path: Path) -> None:
    """Removes a file or a whole folder; one that is not there is no error."""
    announce("delete", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Makes a folder and the ones above it, durably; `mode` is for the last one, and only if it is new."""
    if path.is_dir():
        return
    make_folder(path.parent)
    announce("mkdir", path)
    path.mkdir(mode=mode, exist_ok=True)
    sync(path.parent)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replaces the content of `path`: after a crash the old or the new content is there, never a mixture.

    Two processes may write the same path at once, as runs that share a cache do: the last one stands, whole.
    """
    staging = path.with_name(f"{STAGING}{os.getpid()}-{path.name}")
    write_bytes(staging, data.encode() if isinstance(data, str) else data)
    sync(staging)
    rename(staging, path)
    sync(path.parent)


def write_json(path: Path, plain: Any) -> None:
    """Writes plain data atomically, indented, keys in their own order."""
    atomic_write(path, json_bytes(plain, indent=2))


def read_json(path: Path) -> Any:
    """Plain data of a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON, or is not UTF-8.
    """
    return json.loads(path.read_bytes().decode("utf-8"))


def append_line(path: Path, plain: Any, *, durable: bool = True) -> None:
    """Appends one line of JSON in a single write; `durable` waits for the disk.

    A killed process loses no line that was written; without `durable` a power cut may lose the last seconds.
    """
    data = json_bytes(plain)
    announce("append", path)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(plain: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON with a final newline; half of a surrogate pair stays an escape, for it has no UTF-8 form."""
    text = json.dumps(jsonable(plain), indent=indent, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def jsonable(value: Any) -> Any:
    """JSON types only. A float that is not finite becomes `"nan"`, `"inf"` or `"-inf"`: never 0.0, never null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        plain = [jsonable(inner) for inner in value]
        return sorted(plain) if isinstance(value, (set, frozenset)) else plain
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if hasattr(value, "item"):
        return jsonable(value.item())
    return str(value) if isinstance(value, Path) else value
