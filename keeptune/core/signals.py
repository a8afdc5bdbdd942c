"""Stopping a run politely: the first signal asks, the second one ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 0.2
"""A terminal and a parent process may both pass on one Ctrl-C; what comes sooner than this is the same request."""

INTERRUPTED = 75


class StopRequest(threading.Event):
    """Set by a signal; whoever works looks at it between two steps, commits and leaves.

    Attributes:
        signal: name of the signal, such as `SIGTERM`; empty when the request came from code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal = ""


@contextlib.contextmanager
def listening(stop: StopRequest, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP set `stop`; a second SIGINT or SIGTERM ends the process at once.

    Ending at once is safe at any moment: the commit protocol survives a kill. Outside the main thread nothing is
    installed, for Python delivers signals there only; under nohup SIGHUP stays ignored.

    Args:
        stop: what to set.
        say: told once, with the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not stop.is_set():
            first = time.monotonic()
            stop.signal = signal.Signals(number).name
            stop.set()
            if say is not None:
                say(stop.signal)
        elif number != signal.SIGHUP and time.monotonic() - first > ECHO_SECONDS:
            os._exit(INTERRUPTED)

    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    wanted = [number for number in SIGNALS if not (under_nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
