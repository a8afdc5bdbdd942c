"""Runs of a grid beside each other: forked processes that share the loaded base, its scores and the encoded data.

A small model uses one processor thread, so that the other cores stand idle. Each process takes the next run that
nobody has taken and commits it; afterwards the study reads all of them, and makes again what failed, so that its error
is told as ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from keeptune.core.errors import Interrupted, KeeptuneError, PlanError
from keeptune.recipes.workshop import SMALL
from keeptune.studies import Work

LOOK_SECONDS = 0.2


def run_beside(runs: Sequence[Callable[[], Any]], jobs: int, work: Work) -> None:
    """Runs all of them, `jobs` at a time, each in a process that was forked from this one.

    Args:
        runs: each commits what it makes, and does nothing where that is done.
        jobs: processes.
        work: of the study; its base is loaded.

    Raises:
        PlanError: runs cannot share this base (E-STUDY-JOBS).
        Interrupted: a signal came; the processes have ended, and finished runs are kept (E-RUN-INTERRUPTED).
    """
    _check(work)
    context = multiprocessing.get_context("fork")
    taken, done = context.Value("i", 0), context.Value("i", 0)
    children: list[BaseProcess] = [
        context.Process(target=_work_through, args=(runs, taken, done, os.getpid()))
        for _ in range(min(jobs, len(runs)))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: none of them computes
        for child in children:
            child.start()
    _watch(children, done, len(runs), work)
    if work.stop.is_set():
        raise Interrupted(
            "stopped; the runs that were done are kept.", code="E-RUN-INTERRUPTED", fix="The same command goes on."
        )


def _check(work: Work) -> None:
    model = work.workshop.shared(work.recipe.model.checkpoint).model
    if model.device.type != "cpu" or model.num_parameters() >= SMALL or not hasattr(os, "fork"):
        raise PlanError(
            "runs beside each other are for small models on the processor.",
            code="E-STUDY-JOBS",
            where={"key": "jobs"},
            why=f"A GPU serves one process at a time; a model of {SMALL:,} parameters or more uses all cores itself.",
            fix="Leave `jobs` at 1.",
        )


def _work_through(runs: Sequence[Callable[[], Any]], taken: Any, done: Any, parent: int) -> None:
    """In the child: one run after the other, until none is left, a signal came, or the parent is gone."""
    os.setpgrp()  # what a terminal sends goes to the parent, which passes it on once
    while os.getppid() == parent:
        with taken.get_lock():
            place, taken.value = taken.value, taken.value + 1
        if place >= len(runs):
            return
        try:
            runs[place]()
        except Interrupted:
            return
        except KeeptuneError:
            continue  # the parent makes it again, and tells
        with done.get_lock():
            done.value += 1


def _watch(children: Sequence[BaseProcess], done: Any, count: int, work: Work) -> None:
    """Until all have ended: says how far they are, passes a signal on."""
    said, passed = 0, False
    while any(child.is_alive() for child in children):
        if work.stop.is_set() and not passed:
            passed = True
            for child in children:
                if child.is_alive() and child.pid:
                    os.kill(child.pid, signal.SIGTERM)
        if done.value > said:
            said = done.value
            work.progress.say(f"{said} of {count} runs")
        time.sleep(LOOK_SECONDS)
    for child in children:
        child.join()
