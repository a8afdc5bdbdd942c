"""Kills training at random moments, resumes it, and compares SHA-256 with an uninterrupted run.

    python -m tests.reliability.kill_loop FOLDER --kills 20 --inside-save 5 --seed 1
    python -m tests.reliability.kill_loop FOLDER --recipe lora --set stages[0].epochs=0.1    (the whole `keeptune run`)

Every trial is two forked processes: one is killed with SIGKILL, the other runs to the end. A kill inside a save comes
before the n-th disk operation of the commit protocol, n drawn over all saves of the run; any other kill comes when the
process has used a random share of the processor time of the whole run. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from keeptune.core import files
from keeptune.core.digest import file_digest
from keeptune.recipes.side_by_side import VERDICTS
from tests.stages.tiny_training import Bench

METHODS = {
    "lora": {"method": {"name": "lora", "rank": 4, "dropout": 0.1}},
    "full": {"method": "full", "optimizer": {"name": "adamw", "lr": 1e-3}},
    "adalora": {
        "method": {"name": "adalora", "rank": 2, "initial_rank": 4, "every": 1, "settled": 0.3, "dropout": 0.1}
    },
    "prompt": {"method": {"name": "prompt", "length": 3}, "optimizer": {"name": "adafactor", "lr": 0.1}},
}


def in_child(work: Callable[[], None]) -> int:
    """Forks; returns the process id."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            work()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
        os._exit(code)
    return pid


def finished(pid: int) -> bool:
    """Waits for a process; whether it ended well."""
    return os.waitpid(pid, 0)[1] == 0


def processor_seconds(pid: int) -> float:
    """Used so far by a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def counting_saves(counter: Path) -> files.Watcher:
    """Writes down how many disk operations belong to commits."""
    count = 0

    def watch(step: str, path: Path) -> None:
        nonlocal count
        if in_save(path):
            count += 1
            counter.write_text(str(count))

    return watch


def killing_in_save(number: int) -> files.Watcher:
    """SIGKILL before the disk operation of that number (from 1) within commits."""
    count = 0

    def watch(step: str, path: Path) -> None:
        nonlocal count
        count += in_save(path)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def in_save(path: Path) -> bool:
    """Whether a file belongs to a commit of training state, or to the stage's output."""
    return any(part.startswith(("commits-", ".staging-")) for part in path.parts)


def stage_alone(folder: Path, method: str) -> Callable[[str], object]:
    """Trains a tiny model in the run folder of that name."""
    bench = Bench(folder)
    return lambda name: bench.train(name, **METHODS[method])


def keeptune_run(folder: Path, recipe: str, settings: list[str]) -> Callable[[str], object]:
    """The command itself, from reading the recipe to the certificate."""
    from keeptune import cli

    def run(name: str) -> None:
        sys.argv = ["keeptune", "run", recipe, "--output", str(folder / name)]
        sys.argv += [word for setting in settings for word in ("--set", setting)]
        sys.stdout = sys.stderr
        try:
            cli.main()
        except SystemExit as end:
            if end.code not in VERDICTS:
                raise

    return run


class KillLoop:
    """One training, killed again and again, each time from its beginning.

    Args:
        folder: holds a run folder per trial.
        train: runs or resumes the run folder of that name; called in child processes only.
        seed: of the moments.
    """

    def __init__(self, folder: Path, train: Callable[[str], object], seed: int) -> None:
        self.folder, self.train = folder, train
        self.random = random.Random(seed)
        counter = folder / "saves"

        def whole() -> None:
            files.watchers.append(counting_saves(counter))
            self.train("whole")

        before = os.times()
        assert finished(in_child(whole)), "the uninterrupted run failed"
        after = os.times()
        self.seconds = after.children_user + after.children_system - before.children_user - before.children_system
        self.operations = int(counter.read_text())
        self.expected = self.output("whole")

    def output(self, name: str) -> dict[str, str]:
        """SHA-256 of the weights that each stage left."""
        stages = self.folder / name / "stages"
        outputs = [*stages.glob("*/adapter/*.safetensors"), *stages.glob("*/model/*.safetensors")]
        return {str(path.relative_to(stages)): file_digest(path) for path in sorted(outputs)}

    def trial(self, name: str, inside_save: bool) -> dict[str, object]:
        """Kill once, resume, compare."""
        if inside_save:
            number = self.random.randint(1, self.operations)
            killed = self.killed_in_save(name, number)
            place = f"disk operation {number} of {self.operations}"
        else:
            killed = False
            while not killed:  # processor time varies: a late moment can come after the end, and is drawn again
                shutil.rmtree(self.folder / name, ignore_errors=True)
                share = self.random.uniform(0.02, 0.98)
                killed = self.killed_after(name, share * self.seconds)
            place = f"{share:.0%} of the run"
        assert finished(in_child(lambda: self.train(name))), f"the resumed run failed after a kill at {place}"
        return {
            "place": place,
            "inside_save": inside_save,
            "killed": killed,
            "equal": self.output(name) == self.expected,
        }

    def killed_in_save(self, name: str, number: int) -> bool:
        """Whether the process was killed before it ended."""

        def work() -> None:
            files.watchers.append(killing_in_save(number))
            self.train(name)

        return not finished(in_child(work))

    def killed_after(self, name: str, seconds: float) -> bool:
        """Whether the process was killed before it ended."""
        pid = in_child(lambda: self.train(name))
        while processor_seconds(pid) < seconds and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        try:
            os.kill(pid, signal.SIGKILL)
            return not finished(pid)
        except (ProcessLookupError, ChildProcessError):
            return False


def main() -> int:
    """Exit code 0 when every trial gave the same weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inside-save", type=int, default=5)
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--recipe", help="kill `keeptune run RECIPE` instead of a stage alone")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.recipe:
        train = keeptune_run(arguments.folder, arguments.recipe, arguments.settings)
    else:
        train = stage_alone(arguments.folder, arguments.method)
    loop = KillLoop(arguments.folder, train, arguments.seed)
    trials = [loop.trial(f"trial-{i}", inside_save=i < arguments.inside_save) for i in range(arguments.kills)]
    equal = sum(bool(trial["equal"]) for trial in trials)
    print(json.dumps({"kills": len(trials), "equal": equal, "weights": loop.expected, "trials": trials}))
    return 0 if equal == len(trials) and loop.expected else 1


if __name__ == "__main__":
    sys.exit(main())
