"""The commit protocol: a folder without a valid manifest does not exist.

    staging folder -> files -> fsync each -> manifest.json -> fsync -> rename -> fsync parent -> prune

A process killed, or a machine switched off, at any moment leaves the previous commits and perhaps one folder whose name
starts with `.staging-` or `.trash-`; `sweep` removes those. The manifest holds size and SHA-256 of every file, and
a digest of itself, so a flipped byte anywhere is found before anything is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from keeptune.core.digest import digest_of, file_digest, files_below
from keeptune.core.disk import disk_errors
from keeptune.core.errors import MachineError, ModelError
from keeptune.core.files import (
    STAGING,
    TRASH,
    announce,
    delete,
    jsonable,
    make_folder,
    read_json,
    rename,
    sync,
    write_json,
)

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Commit:
    """A folder whose manifest was verified.

    Attributes:
        folder: where it is.
        info: what the writer stored beside the files (step, exactness digest, ...).
        files: relative path to `{"bytes": ..., "sha256": ...}`.
        skipped: newer folders that were passed over on the way here, each with the reason.
    """

    folder: Path
    info: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    skipped: tuple[tuple[Path, str], ...] = ()


def write_commit(parent: Path, name: str, fill: Callable[[Path], None], *, info: Mapping[str, Any]) -> Path:
    """Writes `parent/name` so that it appears complete or not at all.

    A folder of that name is replaced; when its files are the same ones it stays. Between the two renames of a
    replacement neither of them is visible, and a crash there leaves the commit before.

    Args:
        parent: made if it is not there.
        name: of the new folder.
        fill: writes files into the (empty) folder that it is given; it need not wait for the disk.
        info: plain data for the manifest.

    Returns:
        The new folder.

    Raises:
        MachineError: the disk is full or fails (E-RUN-DISK); nothing is left behind and older commits stay.
    """
    target, staging = parent / name, parent / f"{STAGING}{name}"
    with disk_errors(target):
        try:
            make_folder(parent)
            delete(staging)
            staging.mkdir()
            announce("fill", staging)
            fill(staging)
            _seal(staging, info)
            if _same_content(staging, target):
                delete(staging)
            else:
                _put_in_place(staging, target)
        except Exception:
            with contextlib.suppress(OSError):
                delete(staging)
            raise
    return target


def verify(folder: Path) -> Commit:
    """Reads the manifest and compares every file with it.

    Raises:
        ModelError: E-COMMIT-MANIFEST (none, unreadable or altered), E-COMMIT-SCHEMA (a newer version wrote it),
            E-COMMIT-MISSING, E-COMMIT-SIZE or E-COMMIT-DIGEST (a file), each naming the file.
        MachineError: the disk fails while reading (E-COMMIT-READ).
    """
    manifest = _manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        try:
            _compare(path, expected)
        except FileNotFoundError:
            raise _broken("E-COMMIT-MISSING", path, f"'{name}' is missing.") from None
        except OSError as error:
            text = f"'{name}' cannot be read ({os.strerror(error.errno or errno.EIO)})."
            raise MachineError(text, code="E-COMMIT-READ", where={"file": path}, fix="Check the disk.") from error
    return Commit(folder, manifest["info"], manifest["files"])


def newest_valid(parent: Path, prefix: str = "step-") -> Commit | None:
    """The commit with the highest number whose files are all as they were written.

    Broken ones are passed over with a warning and listed in `Commit.skipped`; `None` when no valid one is left.
    """
    skipped: list[tuple[Path, str]] = []
    for folder in _numbered(parent, prefix):
        try:
            found = verify(folder)
        except (ModelError, MachineError) as error:
            skipped.append((folder, error.what))
            warnings.warn(f"{folder.name} is damaged and was skipped: {error.what}", stacklevel=2)
        else:
            return Commit(found.folder, found.info, found.files, tuple(skipped))
    return None


def prune(parent: Path, keep: int, protect: Iterable[Path] = (), prefix: str = "step-") -> None:
    """Deletes all but the `keep` newest commits and the protected ones (the save limit).

    Each folder is renamed before its files go, so that a crash never leaves half a commit under its name.
    """
    assert keep >= 1, "the newest commit is what a run resumes from"
    kept = {path.resolve() for path in protect}
    old = [folder for folder in _numbered(parent, prefix)[keep:] if folder.resolve() not in kept]
    for folder in old:
        _discard(folder)
    if old:
        sync(parent)
        sweep(parent)


def sweep(parent: Path) -> list[Path]:
    """Removes what interrupted commits and writes left anywhere below `parent`; returns what was removed."""
    left = []
    for above, folders, names in os.walk(parent):
        found = [name for name in [*folders, *names] if name.startswith((STAGING, TRASH))]
        folders[:] = [name for name in folders if name not in found]
        left += [Path(above) / name for name in found]
    for path in left:
        delete(path)
    return left


def _seal(staging: Path, info: Mapping[str, Any]) -> None:
    files = {}
    for name in files_below(staging):
        path = staging / name
        assert path.is_file(), f"{name} is no regular file"
        assert not path.is_symlink(), f"{name} is a link: a moved folder would lose it"
        sync(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    for folder in sorted({above for name in files for above in PurePosixPath(name).parents} - {PurePosixPath()}):
        sync(staging / folder)
    plain = {"schema": SCHEMA, "info": jsonable(info), "files": files}
    write_json(staging / MANIFEST, {**plain, "digest": digest_of(plain)})


def _put_in_place(staging: Path, target: Path) -> None:
    replaced, trash = target.exists(), _trash(target)
    if replaced:
        _discard(target)
    try:
        rename(staging, target)
    except OSError:
        if replaced:
            rename(trash, target)
        raise
    sync(target.parent)
    if replaced:
        delete(trash)


def _discard(folder: Path) -> None:
    delete(_trash(folder))
    rename(folder, _trash(folder))


def _trash(folder: Path) -> Path:
    return folder.with_name(f"{TRASH}{folder.name}")


def _same_content(staging: Path, target: Path) -> bool:
    if not target.exists():
        return False
    try:
        old, new = verify(target), _manifest(staging)
    except (ModelError, MachineError):
        return False
    return bool(old.files == new["files"] and old.info == new["info"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise _broken("E-COMMIT-MANIFEST", path, f"'{folder.name}' has no manifest: it was never completed.") from None
    except OSError as error:
        text = f"the manifest of '{folder.name}' cannot be read ({error.strerror})."
        raise MachineError(text, code="E-COMMIT-READ", where={"file": path}, fix="Check the disk.") from error
    except (ValueError, RecursionError):
        raise _broken("E-COMMIT-MANIFEST", path, f"the manifest of '{folder.name}' is no JSON.") from None
    if isinstance(manifest, dict) and isinstance(manifest.get("schema"), int) and manifest["schema"] > SCHEMA:
        text = f"'{folder.name}' has manifest version {manifest['schema']}; this keeptune reads up to {SCHEMA}."
        raise ModelError(text, code="E-COMMIT-SCHEMA", where={"file": path}, fix="Update keeptune.")
    plain = {key: manifest.get(key) for key in ("schema", "info", "files")} if isinstance(manifest, dict) else {}
    if not plain or not isinstance(plain["files"], dict) or manifest.get("digest") != _digest_or_none(plain):
        raise _broken("E-COMMIT-MANIFEST", path, f"the manifest of '{folder.name}' was altered.")
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in plain["files"]):
        raise _broken("E-COMMIT-MANIFEST", path, f"the manifest of '{folder.name}' names files outside the folder.")
    return plain


def _digest_or_none(plain: Any) -> str | None:
    try:
        return digest_of(plain)
    except ValueError:
        return None


def _compare(path: Path, expected: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise _broken("E-COMMIT-SIZE", path, f"'{path.name}' has {size} bytes; {expected['bytes']} were written.")
    if file_digest(path) != expected["sha256"]:
        raise _broken("E-COMMIT-DIGEST", path, f"'{path.name}' is not the file that was written: its SHA-256 differs.")


def _broken(code: str, path: Path, what: str) -> ModelError:
    return ModelError(
        what, code=code, where={"file": path}, fix="Use an older commit, or delete this folder and run again."
    )


def _numbered(parent: Path, prefix: str) -> list[Path]:
    """Folders called prefix + number, the highest number first."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)")
    found = [(int(match.group(1)), path) for path in _folders(parent) if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
