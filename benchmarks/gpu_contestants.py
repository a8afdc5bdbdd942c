"""Who takes part in `gpu_step`, and which of them can run on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_workload import RANK, Work
from benchmarks.peers.build import interpreter
from benchmarks.peers.pipe import Contestant

TRL = ("trl", "peft", "datasets")
SHORT = "out of memory"
SHORT_WORDS = ("OutOfMemoryError", "E-MEMORY-GPU")
"""What is said where memory is short."""


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        says: what the table calls it.
        module: of `benchmarks.peers`.
        role: own, default or fastest.
        needs: packages that its interpreter has to have.
        environment: of `peers.build` that has them.
        dtype: of the frozen weights; None: the library's choice.
        attention: a name of transformers, or `best`; None: the library's choice.
        unpadded: whether batches of rows of unequal length are asked for without padding.
        config: further settings of TRL.
    """

    says: str
    module: str
    role: str
    needs: tuple[str, ...] = ()
    environment: str = "trl-gpu"
    dtype: str | None = None
    attention: str | None = None
    unpadded: bool = False
    config: dict[str, Any] = field(default_factory=dict)


QUIET = {"gradient_checkpointing": False}
BEST: dict[str, Any] = {"dtype": "bfloat16", "attention": "best"}
# TRL's own choices are float32 weights under bfloat16 autocast, layers computed twice, and padding. At its best it has
# the weights in bfloat16, keeps activations, and flattens a batch; without FlashAttention a flattened batch needs a
# mask over all of it, so the padded form takes part too.
ENTRIES = {
    "own": Entry("keeptune", "own_step", "own", dtype="bfloat16"),
    "trl": Entry("TRL as it comes", "trl_step", "default", TRL),
    "trl-best": Entry("TRL, bf16, kept, unpadded", "trl_step", "fastest", TRL, **BEST, unpadded=True, config=QUIET),
    "trl-padded": Entry("TRL, bf16, kept", "trl_step", "fastest", TRL, **BEST, config=QUIET),
    "trl-liger": Entry(
        "TRL, bf16, kept, unpadded, Liger",
        "trl_step",
        "fastest",
        (*TRL, "liger_kernel"),
        **BEST,
        unpadded=True,
        config={**QUIET, "use_liger_kernel": True},
    ),
    "trl-padded-liger": Entry(
        "TRL, bf16, kept, Liger",
        "trl_step",
        "fastest",
        (*TRL, "liger_kernel"),
        **BEST,
        config={**QUIET, "use_liger_kernel": True},
    ),
    "unsloth": Entry("Unsloth", "unsloth_step", "fastest", ("unsloth",), "unsloth", config=QUIET),
}
DEFAULT = {
    "alpaca": ("own", "trl", "trl-best", "trl-padded"),
    "full": ("own", "trl-padded", "trl-padded-liger", "unsloth"),
}
"""Who runs unless others are asked for; rows of equal length need no padding, so there the plain form is the best."""


def settings_of(entry: Entry, work: Work, given: dict[str, Any]) -> dict[str, Any]:
    """What a contestant's process is told.

    Args:
        entry: the contestant.
        work: what it computes.
        given: `model`, `rows`, `output`, `device`, and `attention`, which stands for `best` where it is not None.
    """
    config: dict[str, Any] = {**entry.config, "max_length": None}
    if entry.unpadded and work.rows != "full":
        config["padding_free"] = True
    chosen = given["attention"] or entry.attention
    return {
        **given,
        "rank": RANK,
        "batch": work.batch,
        "lr": 2e-4,
        "losses": [{"name": "next_token"}],
        "dtype": entry.dtype,
        "attention": chosen if entry.attention == "best" else entry.attention,
        "config": config,
        "turns": "spans",
    }


def python_of(entry: Entry, rehearsed: bool) -> Path | None:
    """The interpreter of a contestant; None where its packages are nowhere."""
    if entry.role == "own":
        return Path(sys.executable)
    return interpreter("trl-1.16" if rehearsed else entry.environment, entry.needs)


def fitting(names: Sequence[str], *, rehearsed: bool) -> list[str]:
    """Those of `names` that can run here; says of the others what they lack."""
    there = []
    for name in names:
        if python_of(ENTRIES[name], rehearsed) is None:
            print(f"left out: {name}, for {', '.join(ENTRIES[name].needs)} cannot all be imported", file=sys.stderr)
        else:
            there.append(name)
    return there


@dataclass
class Started:
    """Contestants that stand ready.

    Attributes:
        children: their processes.
        seconds: from the start of each to its answer that it stands.
        failures: why others do not stand any more: `out of memory`, or what was said.
    """

    children: dict[str, Contestant] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def trying(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gives; or None, and the contestant is out."""
        try:
            return work()
        except (RuntimeError, BrokenPipeError) as error:
            said = str(error)
            self.leaves(name, SHORT if any(word in said for word in SHORT_WORDS) else said)
            return None

    def leaves(self, name: str, reason: str) -> None:
        """Out, its memory free for the others; says why."""
        print(f"{name}: {reason}", file=sys.stderr)
        self.failures[name] = reason
        if name in self.children:
            self.children.pop(name).close()


@contextmanager
def running(
    names: Sequence[str], work: Work, given: dict[str, Any], folder: Path, *, rehearsed: bool
) -> Iterator[Started]:
    """The contestants' processes, each with its trainer built and waiting."""
    started = Started()
    with ExitStack() as stack:
        for name in names:
            place = folder / name
            place.mkdir(parents=True)
            entry = ENTRIES[name]
            python = python_of(entry, rehearsed)
            assert python is not None, "those that cannot run were left out"
            settings = settings_of(entry, work, {**given, "output": str(place / "output")})
            begun = time.perf_counter()
            module = f"benchmarks.peers.{entry.module}"
            child = started.trying(name, partial(Contestant, python, module, settings, place / "log"))
            if child is not None:
                started.children[name] = stack.enter_context(child)
                started.seconds[name] = time.perf_counter() - begun
        yield started
