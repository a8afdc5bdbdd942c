"""A child process for code that somebody else wrote: bounded in time, memory, files and processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile

LARGEST_FILE = 1 << 20
OPEN_FILES = 32


def passes(code: str, *, seconds: float, megabytes: int) -> bool:
    """Whether Python runs `code` to its end without an error.

    Args:
        code: of the module `__main__`.
        seconds: of processor time; twice as many by the clock.
        megabytes: of address space.
    """
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="keeptune-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOUNDED, str(seconds), str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        said = b""
        try:
            said, _ = child.communicate(f"{word}\n{code}".encode("utf-8", "replace"), timeout=2 * seconds + 1)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    return child.returncode == 0 and said == word.encode()


_BOUNDED = f"""
import sys
seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
word, code = sys.stdin.buffer.read().decode("utf-8").split("\\n", 1)
try:
    import resource
    whole = max(1, int(seconds + 0.999))
    for what, limit in (
        (resource.RLIMIT_CPU, whole), (resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_FSIZE, {LARGEST_FILE}),
        (resource.RLIMIT_NOFILE, {OPEN_FILES}), (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
except ImportError:
    pass
try:
    import ctypes
    ctypes.CDLL(None).unshare(0x40000000 | 0x10000000)  # a network and a user of its own, with nothing in them
except Exception:
    pass
import os
mine = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.argv = ["answer"]
try:
    exec(compile(code, "answer", "exec"), {{"__name__": "__main__"}})
except SystemExit:
    sys.exit(1)
os.write(mine, word.encode())  # only who comes to the end says it: leaving early is no way to pass
"""
