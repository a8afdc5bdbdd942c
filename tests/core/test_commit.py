"""At every moment the folder shows the previous commit or the complete new one, never anything else."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keeptune.core import commit as commit_file
from keeptune.core.commit import MANIFEST, newest_valid, prune, sweep, verify, write_commit
from keeptune.core.errors import MachineError, ModelError
from keeptune.core.files import write_bytes
from tests.core.crash import Killed, PowerLoss, failing_at, killed_in_a_child, steps_of, watching


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """A killed process needs no fsync, and the power-cut model follows the calls, not the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fill_with(text: str):
    def fill(folder: Path) -> None:
        (folder / "deep" / "er").mkdir(parents=True)
        for name in ("weights", "optimizer", "deep/er/state"):
            write_bytes(folder / name, f"{name} {text} ".encode() * 50)

    return fill


def content(folder: Path) -> str:
    texts = {(folder / name).read_text().split()[1] for name in ("weights", "optimizer", "deep/er/state")}
    assert len(texts) == 1
    return texts.pop()


def visible(parent: Path) -> str | None:
    found = newest_valid(parent)
    return None if found is None else f"{found.folder.name}:{content(found.folder)}"


def first(parent: Path) -> None:
    write_commit(parent, "step-10", fill_with("new"), info={"step": 10})


def second(parent: Path) -> None:
    write_commit(parent, "step-20", fill_with("new"), info={"step": 20})


def second_then_prune(parent: Path) -> None:
    second(parent)
    prune(parent, keep=1)


def replacement(parent: Path) -> None:
    write_commit(parent, "step-10", fill_with("other"), info={"step": 10})


# scenario: the commits before it, the work, what may be seen after a crash, what must be seen after the end
SCENARIOS = {
    "first": ([], first, {None, "step-10:new"}, "step-10:new"),
    "second": ([(9, "older"), (10, "old")], second, {"step-10:old", "step-20:new"}, "step-20:new"),
    "prune": ([(9, "older"), (10, "old")], second_then_prune, {"step-10:old", "step-20:new"}, "step-20:new"),
    "replacement": (
        [(9, "older"), (10, "old")],
        replacement,
        {"step-9:older", "step-10:old", "step-10:other"},
        "step-10:other",
    ),
}


@pytest.fixture(params=SCENARIOS)
def scenario(request, tmp_path):
    before, work, allowed, final = SCENARIOS[request.param]
    template = tmp_path / "template"
    template.mkdir()
    for step, text in before:
        write_commit(template, f"step-{step}", fill_with(text), info={"step": step})

    def fresh(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(template, folder)
        return folder

    return fresh, work, allowed, final


def test_a_kill_at_any_write_boundary_shows_the_old_or_the_new_commit(scenario):
    fresh, work, allowed, final = scenario
    trial = fresh("trial")
    boundaries = len(steps_of(lambda: work(trial)))
    assert boundaries > 12
    assert visible(trial) == final
    for n in range(boundaries):
        folder = fresh(f"killed-{n}")
        killed_in_a_child(lambda folder=folder: work(folder), n)
        assert visible(folder) in allowed
        sweep(folder)
        assert all(not path.name.startswith(".") for path in folder.iterdir())
        work(folder)
        assert visible(folder) == final


@pytest.mark.parametrize("names", [False, True], ids=["names-arrived", "names-lost"])
@pytest.mark.filterwarnings("ignore:.*was skipped")
def test_a_power_cut_at_any_write_boundary_shows_the_old_or_the_new_commit(scenario, names):
    fresh, work, allowed, _ = scenario
    trial = fresh("trial")
    for n in range(len(steps_of(lambda: work(trial)))):
        folder, machine = fresh(f"cut-{n}"), PowerLoss(stop_before=n)
        with watching(machine), pytest.raises(Killed):
            work(folder)
        machine.lose(names)
        assert visible(folder) in allowed


def test_a_finished_commit_survives_a_power_cut(scenario):
    fresh, work, _, final = scenario
    folder, machine = fresh("finished"), PowerLoss()
    with watching(machine):
        work(folder)
    machine.lose(names=True)
    assert visible(folder) == final


@pytest.mark.filterwarnings("ignore:.*was skipped")
@pytest.mark.parametrize("forgotten", ["weights", "state", "er", "deep", ".staging-step-10", "parent"])
def test_the_power_cut_model_notices_each_fsync_that_is_left_out(tmp_path, monkeypatch, forgotten):
    folder, machine = tmp_path / "parent", PowerLoss()
    folder.mkdir()
    real = commit_file.sync
    for module in ("keeptune.core.commit.sync", "keeptune.core.files.sync"):
        monkeypatch.setattr(module, lambda path: None if path.name == forgotten else real(path))
    with watching(machine):
        first(folder)
    machine.lose(names=True)
    assert visible(folder) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_leaves_no_staging_and_keeps_the_last_good_commit(scenario, number):
    fresh, work, allowed, _ = scenario
    trial = fresh("trial")
    boundaries = len(steps_of(lambda: work(trial)))
    for n in range(boundaries):
        folder = fresh(f"full-{n}")
        with watching(failing_at(n, OSError(number, os.strerror(number)))), pytest.raises((MachineError, OSError)):
            work(folder)
        assert visible(folder) in allowed
        assert not list(folder.glob(".staging-*"))


def test_a_full_disk_is_told_with_code_place_and_remedy(tmp_path):
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MachineError) as caught:
        write_commit(tmp_path, "step-1", fill, info={})
    assert caught.value.code == "E-RUN-DISK"
    assert caught.value.where == {"file": str(tmp_path / "step-1")}
    assert "the disk is full" in caught.value.what
    assert "resumes" in caught.value.fix


def test_a_full_disk_met_by_a_library_in_rust_is_recognised(tmp_path):
    def fill(folder: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(MachineError, match="the disk is full"):
        write_commit(tmp_path, "step-1", fill, info={})


def test_a_bug_in_the_filling_is_no_disk_error(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "there").write_text("x")
        raise FileNotFoundError(errno.ENOENT, "a bug")

    with pytest.raises(FileNotFoundError):
        write_commit(tmp_path, "step-1", fill, info={})
    assert list(tmp_path.iterdir()) == []


def test_a_real_short_write_keeps_the_last_good_commit(tmp_path):
    write_commit(tmp_path, "step-1", fill_with("old"), info={})
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_commit(tmp_path, "step-2", lambda folder: write_bytes(folder / "big", b"x" * 5000), info={})
        except MachineError as error:
            os._exit(0 if error.code == "E-RUN-DISK" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert visible(tmp_path) == "step-1:old"


COMMIT_FOR_EVER = """
import sys
from pathlib import Path
from keeptune.core.commit import newest_valid, prune, sweep, write_commit

parent = Path(sys.argv[1])
sweep(parent)
found = newest_valid(parent)
step = found.info["step"] if found else 0
while True:
    step += 1
    fill = lambda folder: [(folder / name).write_bytes(str(step).encode() * 40_000) for name in "abc"]
    write_commit(parent, f"step-{step}", fill, info={"step": step})
    prune(parent, keep=2)
    print(step, flush=True)
"""


def test_kill_9_while_committing_in_a_loop_never_shows_half_a_commit(tmp_path):
    reported = 0
    for trial in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", COMMIT_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        reported = int(child.stdout.readline())
        time.sleep(0.013 * (trial + 1))
        child.send_signal(signal.SIGKILL)
        reported = int(([reported, *child.stdout.read().split()])[-1])
        child.wait()
        child.stdout.close()
        found = newest_valid(tmp_path)
        assert found.skipped == ()
        assert found.info["step"] in (reported, reported + 1)
        assert {(found.folder / name).read_bytes() for name in "abc"} == {str(found.info["step"]).encode() * 40_000}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        (lambda folder: flip_a_byte(folder / "weights"), "E-COMMIT-DIGEST", "weights"),
        (lambda folder: flip_a_byte(folder / "deep/er/state"), "E-COMMIT-DIGEST", "state"),
        (lambda folder: flip_a_byte(folder / MANIFEST), "E-COMMIT-MANIFEST", "manifest"),
        (lambda folder: (folder / "optimizer").unlink(), "E-COMMIT-MISSING", "optimizer"),
        (lambda folder: (folder / "optimizer").write_text("short"), "E-COMMIT-SIZE", "optimizer"),
        (lambda folder: (folder / MANIFEST).unlink(), "E-COMMIT-MANIFEST", "never completed"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "E-COMMIT-MANIFEST", "no JSON"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "E-COMMIT-MANIFEST", "altered"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\0" * 400), "E-COMMIT-MANIFEST", "no JSON"),
    ],
)
def test_damage_is_found_named_and_passed_over(tmp_path, damage, code, named):
    for step in (10, 20):
        write_commit(tmp_path, f"step-{step}", fill_with(str(step)), info={"step": step})
    damage(tmp_path / "step-20")
    with pytest.raises(ModelError) as caught:
        verify(tmp_path / "step-20")
    assert caught.value.code == code
    with pytest.warns(UserWarning, match="step-20 is damaged"):
        found = newest_valid(tmp_path)
    assert found.info == {"step": 10}
    ((path, reason),) = found.skipped
    assert path == tmp_path / "step-20"
    assert named in reason


def test_every_single_byte_of_a_manifest_is_guarded(tmp_path):
    folder = write_commit(tmp_path, "step-1", lambda staging: write_bytes(staging / "w", b"w"), info={"step": 1})
    good = (folder / MANIFEST).read_bytes()
    for i in range(len(good)):
        changed = bytearray(good)
        changed[i] ^= 1
        (folder / MANIFEST).write_bytes(changed)
        try:
            found = verify(folder)
        except ModelError:
            continue
        assert (found.info, list(found.files)) == ({"step": 1}, ["w"])


def test_a_manifest_of_a_newer_version_is_refused_with_both_numbers(tmp_path):
    folder = write_commit(tmp_path, "step-1", fill_with("x"), info={})
    plain = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**plain, "schema": 99}))
    with pytest.raises(ModelError, match=r"version 99.*up to 1") as caught:
        verify(folder)
    assert caught.value.code == "E-COMMIT-SCHEMA"


def test_when_every_commit_is_damaged_there_is_none(tmp_path):
    write_commit(tmp_path, "step-1", fill_with("x"), info={})
    flip_a_byte(tmp_path / "step-1" / "weights")
    with pytest.warns(UserWarning, match="SHA-256 differs"):
        assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "not there") is None


def test_the_newest_is_the_highest_number_not_the_last_name(tmp_path):
    for step in (9, 100, 20):
        write_commit(tmp_path, f"step-{step}", fill_with(str(step)), info={"step": step})
    (tmp_path / "step-final").mkdir()
    assert newest_valid(tmp_path).info == {"step": 100}


def test_pruning_keeps_the_newest_and_the_protected(tmp_path):
    for step in (1, 2, 3, 4, 10):
        write_commit(tmp_path, f"step-{step}", fill_with(str(step)), info={"step": step})
    prune(tmp_path, keep=2, protect={tmp_path / "step-2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-2", "step-4"]
    assert visible(tmp_path) == "step-10:10"


def test_committing_the_same_content_again_changes_nothing(tmp_path):
    folder = write_commit(tmp_path, "done", fill_with("x"), info={"step": 1})
    before = folder.stat().st_ino
    assert write_commit(tmp_path, "done", fill_with("x"), info={"step": 1}) == folder
    assert folder.stat().st_ino == before
    write_commit(tmp_path, "done", fill_with("x"), info={"step": 2})
    assert verify(folder).info == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
