"""The first signal asks, the second one ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from keeptune.core.signals import ECHO_SECONDS, StopRequest, listening

WORK = """
import sys, time
from keeptune.core.signals import StopRequest, listening
stop = StopRequest()
with listening(stop, say=lambda name: print("asked", name, flush=True)):
    print("ready", flush=True)
    for _ in range(600):
        if stop.is_set() and "stubborn" not in sys.argv:
            sys.exit(75)
        time.sleep(0.01)
"""


@pytest.fixture
def _heard_even_under_nohup():
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, inherited)


@pytest.mark.usefixtures("_heard_even_under_nohup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_sets_the_request_and_the_old_handlers_come_back(number):
    stop, heard = StopRequest(), []
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with listening(stop, heard.append):
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(1)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    assert heard == [stop.signal] == [number.name]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def started(*arguments: str, **settings: object) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", WORK, *arguments], stdout=subprocess.PIPE, text=True, **settings)
    assert child.stdout.readline() == "ready\n"
    return child


def test_work_ends_itself_after_the_first_signal():
    child = started()
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=5)
    assert (child.returncode, output) == (75, "asked SIGTERM\n")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_stubborn_work_at_once(second):
    child = started("stubborn")
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "asked SIGINT\n"
    time.sleep(ECHO_SECONDS + 0.1)
    start = time.monotonic()
    child.send_signal(second)
    child.communicate(timeout=5)
    assert child.returncode == 75
    assert time.monotonic() - start < 1


def test_under_nohup_a_closed_terminal_is_ignored():
    child = started(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    child.send_signal(signal.SIGHUP)
    time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=5)
    assert output == "asked SIGTERM\n"


def test_outside_the_main_thread_nothing_is_installed():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with listening(StopRequest()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
