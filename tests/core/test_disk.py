"""An output folder that cannot work is told in the first second, with its place and a remedy."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest

from keeptune.core.disk import MINIMUM_FREE_BYTES, disk_errors, os_error_number, prepare_folder, shown
from keeptune.core.errors import MachineError
from keeptune.core.run import Run
from tests.core.crash import failing_at, watching

NOBODY = 65534


def refusal(folder) -> MachineError:
    start = time.process_time()
    with pytest.raises(MachineError) as caught:
        Run.open(folder)
    assert time.process_time() - start < 1
    error = caught.value
    assert error.where["file"]
    assert error.fix
    return error


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    error = refusal(tmp_path / "file")
    assert (error.code, "is a file" in error.what) == ("E-RUN-FOLDER", True)
    error = refusal(tmp_path / "file" / "below")
    assert (error.code, "is a file" in error.what) == ("E-RUN-FOLDER", True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_of_300_characters_is_too_long(tmp_path):
    error = refusal(tmp_path / ("a" * 300))
    assert (error.code, "too long" in error.what, "255" in error.fix) == ("E-RUN-FOLDER", True, True)
    assert len(error.what) < 200
    assert refusal(tmp_path / "/".join(["b" * 200] * 30)).code == "E-RUN-FOLDER"


def test_a_nul_in_the_name_is_refused(tmp_path):
    assert refusal(str(tmp_path) + "/a\0b").code == "E-RUN-FOLDER"


@pytest.mark.parametrize("name", ["运行", "rün é", "🙂", "with space", "-dash", "a" * 240])
def test_unusual_names_work(tmp_path, name):
    with Run.open(tmp_path / name) as run:
        run.event("hello", text=name)
    assert run.events()[0]["text"] == name


@contextmanager
def a_users_folder():
    """A new folder of an ordinary user, whom this process then is: root may write everywhere."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_read_only_folder_is_refused():
    with a_users_folder() as folder:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        assert "may not write" in refusal(folder / "run").what


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "reports an error"),
    ],
)
def test_what_the_system_says_is_put_in_words(tmp_path, number, words):
    with watching(failing_at(2, OSError(number, os.strerror(number)))):
        error = refusal(tmp_path / "run")
    assert (error.code, words in error.what) == ("E-RUN-FOLDER", True)


def test_a_nearly_full_disk_is_refused_with_both_numbers(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, MINIMUM_FREE_BYTES - 1))
    error = refusal(tmp_path / "run")
    assert error.code == "E-RUN-SPACE"
    assert "64 MiB" in error.what


def test_a_new_folder_is_for_its_owner_only_and_an_old_one_keeps_its_mode(tmp_path):
    prepare_folder(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "old").mkdir(mode=0o755)
    prepare_folder(tmp_path / "old")
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o755
    assert list((tmp_path / "old").iterdir()) == []


def test_only_disk_errors_are_reworded(tmp_path):
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("ours")
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "ours")
    assert os_error_number(RuntimeError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC
    assert os_error_number(RuntimeError("no number")) == 0


def test_a_long_path_is_shortened_in_the_middle():
    assert shown("/short") == "/short"
    assert shown("/" + "x" * 500 + "/end").endswith("/end")
    assert len(shown("/" + "x" * 500)) < 80
