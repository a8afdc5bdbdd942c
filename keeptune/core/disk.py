"""What can be wrong with a folder or its disk, said in the first second and in the user's words."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from keeptune.core.errors import MachineError, RecipeError
from keeptune.core.files import delete, make_folder, sync, write_bytes

MINIMUM_FREE_BYTES = 64 << 20
"""A run does not start with less: its first commit would already fail."""

DISK_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ESTALE)
)

_REASONS = {
    errno.ENAMETOOLONG: ("its name is too long", "Most file systems allow 255 bytes for each name."),
    errno.EACCES: ("you may not write there", "Choose another folder, or change its permissions."),
    errno.EPERM: ("you may not write there", "Choose another folder, or change its permissions."),
    errno.EROFS: ("the file system is read-only", "Choose a folder on another disk."),
    errno.ENOSPC: ("the disk is full", "Free some space, or choose a folder on another disk."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose a folder on another disk."),
    errno.EIO: ("the disk reports an error", "Check the disk, or choose a folder on another one."),
    errno.ENOTDIR: ("a part of the path is a file", "Choose another folder."),
    errno.EEXIST: ("it is a file, not a folder", "Choose another folder, or move the file away."),
    errno.ELOOP: ("its links go in a circle", "Choose another folder."),
}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a failing disk inside the block into a `MachineError`, whichever library met it.

    Raises:
        MachineError: E-RUN-DISK.
    """
    try:
        yield
    except Exception as error:
        number = os_error_number(error)
        if number not in DISK_ERRORS:
            raise
        reason, _ = _REASONS.get(number, ("writing failed", ""))
        raise MachineError(
            f"writing failed: {reason} ({os.strerror(number)}).",
            code="E-RUN-DISK",
            where={"file": str(path)},
            why="Nothing half-written was left, and the last commit is kept.",
            fix="Make room or mend the disk, then run the same command again: it resumes.",
        ) from error


def os_error_number(error: BaseException) -> int:
    """The errno behind an exception, also when a library in Rust only wrote it as `(os error 28)`; 0 when none is."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found.group(1)) if found else 0


def prepare_folder(folder: Path) -> None:
    """Makes the folder (for its owner only) and proves with a small file that a run can live in it.

    Raises:
        MachineError: E-RUN-FOLDER (a file, read-only, forbidden, name too long), E-RUN-SPACE (disk nearly full).
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        make_folder(folder, mode=0o700)
        _write_probe(folder)
        free = shutil.disk_usage(folder).free
    except (OSError, ValueError) as error:
        reason, fix = _REASONS.get(os_error_number(error), (str(error), "Choose another folder."))
        what = f"no run can be kept in '{shown(folder)}': {reason}."
        raise MachineError(what, code="E-RUN-FOLDER", where={"file": str(folder)}, fix=fix) from error
    if free < MINIMUM_FREE_BYTES:
        raise MachineError(
            f"only {free / 2**20:.0f} MiB are free on the disk of '{shown(folder)}'; "
            f"a run needs at least {MINIMUM_FREE_BYTES >> 20} MiB.",
            code="E-RUN-SPACE",
            where={"file": str(folder)},
            fix="Free some space, or choose a folder on another disk.",
        )


def prepare_output(path: Path, *, new: bool = True) -> None:
    """Before work that ends in a file: makes its folder, and proves that a file can be written there.

    Args:
        path: of the file.
        new: refuse to replace one.

    Raises:
        RecipeError: there is something of that name (E-RECIPE-EXISTS), or it is a folder (E-USAGE-OUTPUT).
        MachineError: nothing can be written there (E-OUTPUT-PLACE).
    """
    if path.is_dir():
        raise RecipeError(
            "this is a folder, and a file is written.", code="E-USAGE-OUTPUT", where={"file": path},
            fix="Name a file in it.",
        )  # fmt: skip
    if new and path.exists():
        raise RecipeError(
            "there is a file of that name already.", code="E-RECIPE-EXISTS", where={"file": path},
            fix="Choose another --output, or remove the file.",
        )  # fmt: skip
    try:
        make_folder(path.parent)
        _write_probe(path.parent)
    except OSError as error:
        reason, fix = _REASONS.get(os_error_number(error), (str(error.strerror), "Choose another folder."))
        raise MachineError(
            f"nothing can be written into '{shown(path.parent)}': {reason}.",
            code="E-OUTPUT-PLACE",
            where={"file": path},
            fix=fix,
        ) from error


def _write_probe(folder: Path) -> None:
    probe = folder / ".staging-probe"
    write_bytes(probe, b"keeptune")
    sync(probe)
    delete(probe)


def shown(path: Path, limit: int = 80) -> str:
    """A path short enough for a sentence; the middle of a long one is left out."""
    text = str(path)
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 4 :]}"
