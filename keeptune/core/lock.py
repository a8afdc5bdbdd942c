"""One run, one folder, one lock.

The lock is an flock on `.lock`: the kernel drops it when the process ends, however it ends, so a dead run never blocks
its folder. Process id, host and boot id in the file say who holds it, and decide where a file system has no flock:
a record of an earlier boot, or of a process that is gone, is stale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from keeptune.core.errors import MachineError

LOCK_FILE = ".lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    host: str
    boot: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), platform.node(), BOOT_ID.read_text().strip() if BOOT_ID.exists() else "")

    @property
    def alive(self) -> bool:
        """False only when it is certain that the process is gone: an earlier boot of this host, or no such process."""
        here = Holder.here()
        if self.host != here.host:
            return True
        return self.boot == here.boot and _process_exists(self.pid)


class RunLock:
    """The lock of one run folder; also a context manager.

    Args:
        folder: the run folder; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            MachineError: another process has it (E-RUN-LOCKED), named with its pid and host.
        """
        assert self._descriptor is None, "the lock is already held"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            taken = _flock(descriptor)
            holder = _parse(os.pread(descriptor, 4096, 0))
            if taken is False or (taken is None and holder is not None and holder.alive):
                raise _locked(self.path.parent, holder)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(Holder.here())).encode() + b"\n", 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Gives the lock back; without one it does nothing."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        self.forget()

    def forget(self) -> None:
        """Closes this process's copy; a parent that holds the lock keeps it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        _held.discard(self)

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: set[RunLock] = set()


def _forget_in_child() -> None:
    """A forked worker that outlives its killed parent must not keep the run folder locked."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)


def holder_of(folder: Path) -> Holder | None:
    """Who runs in this folder now, without touching the lock; `None` when nobody does."""
    try:
        holder = _parse((folder / LOCK_FILE).read_bytes())
    except OSError:
        return None
    return holder if holder is not None and holder.alive else None


def _flock(descriptor: int) -> bool | None:
    """True: taken. False: somebody has it. None: this file system has no flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _parse(record: bytes) -> Holder | None:
    try:
        plain = json.loads(record)
        return Holder(int(plain["pid"]), str(plain["host"]), str(plain["boot"]))
    except (ValueError, TypeError, KeyError):
        return None


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _locked(folder: Path, holder: Holder | None) -> MachineError:
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return MachineError(
        f"{who} is running in this folder.",
        code="E-RUN-LOCKED",
        where={"file": str(folder)},
        why="Two runs in one folder would overwrite each other's commits.",
        fix="Wait for it, stop it, or choose another --output.",
    )
