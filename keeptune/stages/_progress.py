"""What a user sees while something runs: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

LINE_SECONDS = 20.0


class Progress:
    """Shows work that has a known number of steps, on standard error, so that standard output stays for results.

    Args:
        quiet: show nothing (`--json`).
        stream: unset: standard error.
    """

    def __init__(self, *, quiet: bool = False, stream: IO[str] | None = None) -> None:
        self.quiet, self.stream = quiet, stream or sys.stderr

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Track]:
        """A bar for `total` steps, of which `done` were done in an earlier process."""
        if self.quiet:
            yield Track()
        elif self.stream.isatty():
            with _bar(self.stream) as bar:
                yield _Bar(bar, bar.add_task(label, total=total, completed=done, shown=""))
        else:
            yield _Lines(self.stream, label, total, done)

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)


class Track:
    """One running piece of work; this one shows nothing."""

    def advance(self, **shown: float) -> None:
        """One step done; `shown` are numbers worth seeing."""

    def within(self, what: str, done: int, total: int) -> None:
        """How far the present step is: `done` of `total` items of `what`."""


class _Lines(Track):
    def __init__(self, stream: IO[str], label: str, total: int, done: int) -> None:
        self.stream, self.label, self.total, self.done = stream, label, total, done
        self.last = time.monotonic()

    def advance(self, **shown: float) -> None:
        self.done += 1
        if self.done == self.total or time.monotonic() - self.last > LINE_SECONDS:
            self.last = time.monotonic()
            print(f"{self.label} {self.done}/{self.total} {_numbers(shown)}".rstrip(), file=self.stream, flush=True)

    def within(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self.last > LINE_SECONDS:
            self.last = time.monotonic()
            place = f"{self.label} {self.done}/{self.total}"
            print(f"{place}, {what} {done}/{total}", file=self.stream, flush=True)


class _Bar(Track):
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def advance(self, **shown: float) -> None:
        self.bar.update(self.task, advance=1, shown=_numbers(shown))

    def within(self, what: str, done: int, total: int) -> None:
        self.bar.update(self.task, shown=f"{what} {done}/{total}")


def _numbers(shown: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _bar(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return RichProgress(*columns, TextColumn("{task.fields[shown]}"), console=Console(file=stream), transient=False)
