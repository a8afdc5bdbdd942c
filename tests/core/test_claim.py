"""A claim: one process makes a file while the others know that they need not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from keeptune.core.claim import claimed

HOLD = """
import sys, time
from pathlib import Path
from keeptune.core.claim import claimed
with claimed(Path(sys.argv[1]), wait=False) as mine:
    print(mine, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "True\n"
    return child


def test_who_does_not_wait_learns_that_another_process_has_it(tmp_path):
    with holder(tmp_path / "x", 60) as child:
        with claimed(tmp_path / "x", wait=False) as mine:
            assert not mine
        with claimed(tmp_path / "y", wait=False) as mine:
            assert mine
        child.kill()


def test_who_waits_gets_it_when_the_other_ends_however_it_ends(tmp_path):
    with holder(tmp_path / "x", 60) as child:
        child.kill()
        child.wait()
        with claimed(tmp_path / "x", wait=False) as mine:
            assert mine


def test_waiting_lasts_until_the_other_lets_go(tmp_path):
    with holder(tmp_path / "x", 0.5):
        began = time.monotonic()
        with claimed(tmp_path / "x", wait=True) as mine:
            assert mine
        assert time.monotonic() - began > 0.2


def test_nothing_is_left_behind(tmp_path):
    with claimed(tmp_path / "x", wait=False):
        assert os.listdir(tmp_path) == ["x.claim"]
    assert os.listdir(tmp_path) == []
