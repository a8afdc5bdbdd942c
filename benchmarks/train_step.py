"""The LoRA training step against TRL with PEFT: as it comes, at its fastest, on random and on length-grouped batches.

    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build
    KEEPTUNE_PEERS=DIR python -m benchmarks.train_step             # writes results/train_step.json
    KEEPTUNE_PEERS=DIR python -m benchmarks.train_step --quick     # one peer, two rounds; prints

Every contestant runs its own training loop in its own process on the same rows in the same order, rank 16 on all
linear maps, AdamW, clipping; the parent says whose turn is next. A turn is two steps, and the second is timed: in
training steps follow each other, and the first step behind other processes finds the caches full of their memory.
Before the rounds, the losses of the first step have to agree: 1e-4 in float32, 2e-3 where weights or products are
bfloat16.

On a processor without units for bfloat16 products in it take ten times as long as in float32, so that nobody who looks
for speed takes it: there everybody runs in float32, by default without the peers as they come, which take bfloat16 on
any processor (`--only own-fp32 1.14 1.14-fp32 --rounds 2` shows what that costs).

`roof` is the ratio that nobody can pass whose products are not faster than the best one here, the library's or ours:
the peer against a step that takes its useful arithmetic (`flops`) at that rate, and nothing for anything else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops, record, workload
from benchmarks.interleave import Seconds, interleaved, middle, ratio
from benchmarks.peak import peak
from benchmarks.peers.build import python_of
from benchmarks.peers.pipe import Contestant
from keeptune.core.machine import calm_process

RANK = 16
WARM = 4  # turns: shapes return and caches fill before what is timed; what a first step costs stands in startup
STEPS = 2  # of a turn; the last is timed
QUIET = {"gradient_checkpointing": False}
PLAIN = {"gradient_checkpointing": False, "bf16": False}


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        says: what the table calls it.
        environment: of the peer; None: ours.
        dtype: of the frozen weights; None: the library's choice.
        config: further settings of TRL.
        role: default, fastest or float32.
        batches: the sets of batches that it runs on.
    """

    says: str
    environment: str | None
    dtype: str | None
    role: str
    config: dict[str, Any] = field(default_factory=dict)
    batches: tuple[str, ...] = ("random", "task")


ROWS = {"random": workload.ROWS_PER_STEP, "grouped": workload.ROWS_PER_STEP, "task": workload.TASK_ROWS_PER_STEP}
"""Rows of a step, by the kind of its batches."""
SAYS = {"random": "random batches", "grouped": "grouped batches", "task": "a task behind one instruction"}
BOTH, ALL = ("random", "grouped"), tuple(ROWS)
# The fastest setting of each version was found by trying: weights in float32 or bfloat16, autocast or not, always
# without checkpointing. On a CPU, TRL's padding-free batches are not to be had: they need FlashAttention.
ENTRIES = {
    "own": Entry("keeptune, bf16", None, "bfloat16", "own", batches=ALL),
    "own-fp32": Entry("keeptune, fp32", None, "float32", "own", batches=ALL),
    "1.16": Entry("TRL 1.16 as it comes", "trl-1.16", None, "default", batches=("random",)),
    "1.16-fast": Entry("TRL 1.16, fastest setting", "trl-1.16", "bfloat16", "fastest", QUIET, BOTH),
    "1.14": Entry("TRL 1.14 as it comes", "trl-1.14", None, "default"),
    "1.14-fast": Entry("TRL 1.14, fastest setting", "trl-1.14", "bfloat16", "fastest", QUIET, ALL),
    "1.14-fp32": Entry("TRL 1.14, fp32", "trl-1.14", "float32", "float32", PLAIN, ALL),
    "1.9": Entry("TRL 1.9 as it comes", "trl-1.9", None, "default"),
    "1.9-fast": Entry("TRL 1.9, fastest setting", "trl-1.9", "bfloat16", "fastest", QUIET, ALL),
    "1.9-fp32": Entry("TRL 1.9, fp32", "trl-1.9", "float32", "float32", PLAIN),
}


@contextmanager
def running(
    entries: Mapping[str, Entry],
    rows: Path,
    model: Path,
    folder: Path,
    *,
    trainer: str = "step",
    batch: int = workload.ROWS_PER_STEP,
    losses: Sequence[Mapping[str, Any]] = ({"name": "next_token"},),
) -> Iterator[dict[str, Contestant]]:
    """The contestants' processes, each with its trainer built and waiting; the peers run `peers.trl_<trainer>`."""
    with ExitStack() as stack:
        children = {}
        for name, entry in entries.items():
            place = folder / name
            place.mkdir()
            settings = {
                "model": str(model), "rows": str(rows), "output": str(place / "output"), "rank": RANK,
                "batch": batch, "losses": list(losses), "lr": 2e-4, "dtype": entry.dtype, "config": entry.config,
                "device": "cpu", "turns": "steps",
            }  # fmt: skip
            python = sys.executable if entry.environment is None else python_of(entry.environment)
            module = f"benchmarks.peers.{'own_step' if entry.environment is None else f'trl_{trainer}'}"
            children[name] = stack.enter_context(Contestant(python, module, settings, place / "log"))
        yield children


def race(children: Mapping[str, Contestant], rounds: int, seed: int) -> tuple[Seconds, dict[str, dict[str, Any]]]:
    """The seconds of each contestant, and its last answer."""
    last: dict[str, dict[str, Any]] = {}

    def turn(name: str) -> Callable[[int], float]:
        def step(_: int) -> float:
            for _ in range(STEPS):
                last[name] = children[name].ask(do="step")
            return float(last[name]["seconds"])

        return step

    return interleaved({name: turn(name) for name in children}, rounds, seed, warm=WARM), last


def check_losses(entries: Mapping[str, Entry], first: Mapping[str, float]) -> None:
    """Everybody starts from the same loss: A is random, B is zero, the weights and rows are the same."""
    expected = first["own-fp32"] if "own-fp32" in first else first["own"]
    for name, loss in first.items():
        limit = 1e-4 if entries[name].dtype == "float32" else 2e-3
        assert abs(loss - expected) < limit, f"{name} starts at a loss of {loss}, not {expected}"


def useful(rows: Sequence[Mapping[str, Sequence[int]]], shared: int) -> int:
    """Operations that a step on these rows, of which the first `shared` tokens are the same, cannot leave out."""
    work = flops.Work.of([row["completion_mask"] for row in rows], shared)
    return flops.low_rank_step(flops.Shape.of(workload.SHAPE), work, RANK)


def fitting() -> list[str]:
    """The contestants that run unless others are asked for."""
    return [name for name, entry in ENTRIES.items() if entry.dtype == "float32" or "bfloat16" in record.dtypes()]


def meet(own: Entry, peer: Entry) -> bool:
    """Whether the table sets them beside each other: in the same dtype, and a peer as it comes beside our fastest."""
    if peer.role == "default":
        return own.dtype == record.dtypes()[-1]
    return (own.dtype == "float32") == (peer.role == "float32")


def compare(kind: str, rounds: int, seed: int, names: list[str]) -> list[dict[str, Any]]:
    """One interleaved run over the contestants of a kind of batch: the rows of the record."""
    entries = {name: ENTRIES[name] for name in names if kind in ENTRIES[name].batches}
    batch, shared = ROWS[kind], workload.INSTRUCTION if kind == "task" else 0
    count = batch * STEPS * (WARM + rounds)
    rows = workload.draw_task(count, seed) if kind == "task" else workload.draw_rows(count, seed)
    if kind == "grouped":
        rows = workload.grouped_by_length(rows, seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = workload.write_model(folder / "model", seed)
        given = workload.write_rows(folder / "rows.json", rows)
        with running(entries, given, model, folder, batch=batch) as children:
            seconds, last = race(children, rounds, seed)
            versions = {name: child.ready["versions"] for name, child in children.items()}
    dtypes = {entries[name].dtype for name in entries if entries[name].role == "own"}
    rates = {dtype: peak(getattr(torch, dtype), 50) for dtype in dtypes if dtype}
    steps = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    work = [useful(step, shared) for step in steps[STEPS - 1 :: STEPS][WARM:]]
    first = {name: answer["losses"][0] for name, answer in last.items()}
    check_losses(entries, first)
    results = []
    for own in (name for name in entries if entries[name].role == "own"):
        for peer in (name for name in entries if entries[name].role != "own"):
            if not meet(entries[own], entries[peer]):
                continue
            results.append(
                {
                    "what": f"LoRA step, {SAYS[kind]}",
                    "own": entries[own].says,
                    "peer": entries[peer].says,
                    "role": entries[peer].role,
                    "own_seconds": middle(seconds[own]),
                    "peer_seconds": middle(seconds[peer]),
                    "speed": ratio(seconds[peer], seconds[own]),
                    "roof": ratio(seconds[peer], [each / rates[entries[own].dtype] for each in work]),
                    "checked": {"first_loss": round(first[own], 5), "first_loss_of_the_peer": round(first[peer], 5)},
                    "padding": round(workload.padding(rows, batch), 3),
                    "versions_of_the_peer": versions[peer],
                }
            )
    return results


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(ENTRIES), help="these contestants; the record says which")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = asked.only or fitting()
    if asked.quick:
        names = [name for name in names if name in ("own", "own-fp32", "1.14", "1.14-fast", "1.14-fp32")]
    rounds = 2 if asked.quick else asked.rounds
    rows: list[dict[str, Any]] = []
    for kind in BOTH:
        rows += compare(kind, rounds, asked.seed, names)
        settings = {"rounds": rounds, "steps_a_turn": STEPS}
        record.write("train_step", rows, seeds=[asked.seed], quick=asked.quick, by_units=True, **settings)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
