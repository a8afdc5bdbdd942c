"""After kill -9 at any moment, resuming gives the weights of the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def kill_loop(folder, *arguments: str) -> dict:
    """The loop in a process of its own: a process that has trained cannot fork one that trains."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.reliability.kill_loop", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_kills_inside_a_save_and_one_outside_leave_the_weights_bitwise(tmp_path):
    result = kill_loop(tmp_path, "--kills", "3", "--inside-save", "2")
    assert [trial["equal"] for trial in result["trials"]] == [True] * 3, result["trials"]
    assert all(trial["killed"] for trial in result["trials"][:2])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "adalora", "prompt"])
def test_twenty_kills_eight_of_them_inside_a_save_leave_the_weights_bitwise(tmp_path, method):
    result = kill_loop(tmp_path, "--kills", "20", "--inside-save", "8", "--method", method, "--seed", "11")
    assert result["equal"] == result["kills"] == 20, result["trials"]
    assert sum(trial["killed"] for trial in result["trials"]) >= 18
