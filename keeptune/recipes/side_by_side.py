"""Several runs at a time, one process each: small models use one processor thread, so other cores stand idle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from keeptune.core.errors import Interrupted, MachineError

VERDICTS = (0, 1, 6)
"""Exit codes of a run that ended in a certificate, whatever it says."""


def run_side_by_side(
    arms: Mapping[str, Sequence[str]], folders: Mapping[str, Path], *, at_once: int, say: Callable[[str], None]
) -> None:
    """Runs every recipe in its folder, `at_once` of them at a time, and returns when all have a certificate.

    Args:
        arms: recipe to its settings, as `--set` takes them; started in this order.
        folders: where each runs. A finished run is not run again, and a stopped one resumes.
        at_once: processes at a time.
        say: told each line that a run prints, after its name.

    Raises:
        Interrupted: a run was stopped by a signal and has committed (E-RUN-INTERRUPTED).
        MachineError: a run ended without a certificate (E-RUN-ARM); what it said went to `say`.
    """
    speaking = Lock()

    def tell(line: str) -> None:
        with speaking:
            say(line)

    def one(arm: str) -> int:
        command = [sys.executable, "-m", "keeptune", "run", arm, "--output", str(folders[arm])]
        command += [part for setting in arms[arm] for part in ("--set", setting)]
        tell(f"{arm}: started")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            for line in child.stderr:
                tell(f"{arm}: {line.rstrip()}")
        return child.returncode

    with ThreadPoolExecutor(at_once) as pool:
        codes = dict(zip(arms, pool.map(one, arms), strict=True))
    stopped = [arm for arm, code in codes.items() if code == Interrupted.exit_code]
    if stopped:
        raise Interrupted(
            f"{', '.join(stopped)} stopped and saved.", code="E-RUN-INTERRUPTED", fix="The same command goes on."
        )
    failed = [arm for arm, code in codes.items() if code not in VERDICTS]
    if failed:
        raise MachineError(
            f"{', '.join(failed)} ended without a certificate.",
            code="E-RUN-ARM",
            where={"file": folders[failed[0]]},
            why="What it said stands above, behind its name.",
            fix="Remove the cause and give the same command again: finished runs are not repeated.",
        )


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
