"""One run, one folder, one lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from keeptune.core import lock as lock_file
from keeptune.core.errors import MachineError
from keeptune.core.lock import LOCK_FILE, Holder, RunLock, holder_of

HOLD = """
import os, sys, time
from pathlib import Path
from keeptune.core.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
if len(sys.argv) > 2:
    worker = os.fork()
    if worker:
        print(worker, flush=True)
else:
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process():
    started = []

    def start(*arguments: str) -> tuple[subprocess.Popen, str]:
        child = subprocess.Popen([sys.executable, "-c", HOLD, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child, child.stdout.readline().strip()

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def taken(lock):
    try:
        lock.acquire()
    except MachineError:
        return False
    return True


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path, other_process):
    child, _ = other_process(str(tmp_path))
    assert holder_of(tmp_path).pid == child.pid
    with pytest.raises(MachineError, match=f"process {child.pid} on ") as caught:
        RunLock(tmp_path).acquire()
    assert caught.value.code == "E-RUN-LOCKED"
    assert caught.value.where == {"file": str(tmp_path)}


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, other_process):
    child, _ = other_process(str(tmp_path))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == child.pid
    assert holder_of(tmp_path) is None
    with RunLock(tmp_path):
        assert holder_of(tmp_path).pid == os.getpid()


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path, other_process):
    child, worker = other_process(str(tmp_path), "fork")
    assert int(worker) > 1
    try:
        child.send_signal(signal.SIGKILL)
        child.wait()
        lock, latest = RunLock(tmp_path), time.monotonic() + 30
        while holder_of(tmp_path) or not taken(lock):  # on a busy machine the worker comes late to its first line
            assert time.monotonic() < latest, "the worker keeps the lock"
            time.sleep(0.01)
        os.kill(int(worker), 0)
        lock.release()
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_two_locks_of_one_process_exclude_each_other_and_release_lets_the_next_in(tmp_path):
    with RunLock(tmp_path), pytest.raises(MachineError, match=f"process {os.getpid()} "):
        RunLock(tmp_path).acquire()
    with RunLock(tmp_path) as again:
        again.release()
        again.release()
    assert holder_of(tmp_path) is None


def without_flock(monkeypatch):
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks on this file system")

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        (Holder.here(), False),
        (replace(Holder.here(), boot="an earlier boot"), True),
        (replace(Holder.here(), pid=2**22 + 1), True),
        (replace(Holder.here(), host="elsewhere", boot="theirs", pid=2**22 + 1), False),
    ],
    ids=["alive", "rebooted", "gone", "another host"],
)
def test_without_flock_the_record_decides(tmp_path, monkeypatch, holder, free):
    without_flock(monkeypatch)
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": holder.pid, "host": holder.host, "boot": holder.boot}))
    if free:
        RunLock(tmp_path).acquire()
    else:
        with pytest.raises(MachineError) as caught:
            RunLock(tmp_path).acquire()
        assert caught.value.code == "E-RUN-LOCKED"


@pytest.mark.parametrize("record", [b"", b"{", b"\0" * 20, b"[1]", b'{"pid": "x"}'])
def test_an_unreadable_record_blocks_nobody(tmp_path, monkeypatch, record):
    without_flock(monkeypatch)
    (tmp_path / LOCK_FILE).write_bytes(record)
    assert holder_of(tmp_path) is None
    with RunLock(tmp_path):
        pass


def test_the_boot_id_is_this_systems(tmp_path):
    assert Holder.here().boot == (lock_file.BOOT_ID.read_text().strip() if lock_file.BOOT_ID.exists() else "")
