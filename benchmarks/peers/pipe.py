"""A contestant in a process of its own: one line of JSON asks for a step, one line of JSON answers.

The parent decides whose turn it is, so that contestants with libraries of different versions share the rounds of one
run. What libraries print to the standard output goes to the error stream; the answers have a descriptor of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CALM = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}


class Contestant:
    """The parent's end.

    Args:
        python: the interpreter, which decides the libraries.
        module: run as `python -m module SETTINGS`.
        settings: plain data for it.
        log: a file for what it and its libraries say.
    """

    def __init__(self, python: Path | str, module: str, settings: dict[str, Any], log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", module, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **CALM, "PYTHONPATH": str(ROOT)},
                cwd=log.parent,
                text=True,
            )
        self.ready = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        assert self.process.stdin is not None, "it was opened with a pipe"
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None, "it was opened with a pipe"
        line = self.process.stdout.readline()
        if not line:
            self.close()
            said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError("a contestant ended early; its last words:\n" + "\n".join(said[-25:]))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Asks for no more; a child that does not end by itself is ended."""
        assert self.process.stdin is not None, "it was opened with a pipe"
        assert self.process.stdout is not None, "it was opened with a pipe"
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Turns:
    """The child's end: waits for its turn, and answers with what it took since the last answer."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._mark = time.process_time()

    def answer(self, **fields: Any) -> None:
        """Says what was done, with processor seconds since the last answer and the memory of this process."""
        now = time.process_time()
        fields = {"seconds": now - self._mark, **memory(), **fields}
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()
        self._mark = time.process_time()

    def wait(self) -> dict[str, Any]:
        """The next command; the process ends when the parent has none left."""
        line = sys.stdin.readline()
        if not line:
            self._out.close()
            os._exit(0)
        command: dict[str, Any] = json.loads(line)
        return command


def memory() -> dict[str, int]:
    """Bytes resident now, and at the highest since the start or since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[key].split()[0]) * 1024 for name, key in (("resident", "VmRSS"), ("peak", "VmHWM"))}


def forget_peak() -> None:
    """The highest resident size counts from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
