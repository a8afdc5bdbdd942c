"""Claim: of several processes that want the same file made, one makes it while the others do something else."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[bool]:
    """Inside, this process alone holds the claim on `path`, or learns that another one does.

    The claim is an flock on a file beside `path`: the kernel drops it when its holder ends, however it ends. Whoever
    gets it looks for `path` once more, since the earlier holder may have made it. A file system without flock grants
    every claim: the work is then done twice and nothing else is lost.

    Args:
        path: the file to be made; its folder exists.
        wait: until the other process has let go.

    Yields:
        False when another process holds it and `wait` is false; otherwise True.
    """
    file = path.with_name(f"{path.name}.claim")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        mine = _flock(descriptor, wait)
        yield mine
        if mine:
            # Whoever waits on the removed file still gets it, and then finds `path` made.
            file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
