"""The LoRA training step on one GPU against TRL with PEFT, with Liger's kernels, and against Unsloth.

    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build --only trl-gpu     # unless its packages are here already
    KEEPTUNE_PEERS=DIR python -m benchmarks.gpu_step --shape 1b --rows alpaca
    KEEPTUNE_PEERS=DIR python -m benchmarks.gpu_step --shape 8b --rows full --only own trl-padded-liger
    KEEPTUNE_PEERS=DIR python -m benchmarks.gpu_step --rehearse            # a tiny model on the processor; prints

As `train_step`: every contestant runs its own training loop in its own process on the same rows in the same order, rank
16 on all linear maps, AdamW, clipping. Before the rounds the losses of the first step have to agree to 2e-3; whoever
starts from another one is not timed, and the command fails. A turn is some steps that are timed together by the GPU's
events, behind a few in which caches fill again. `--together` says how many peers stand beside us at a time: with 8B
one, and whoever waits lends its cached memory to the others; `out of memory` means beside their weights. What was found
is written after each such comparison, and a comparison with peers that the record has not yet is added to it.

Utilisation is the useful arithmetic of a step (`flops`: no padding, nothing computed twice) in the seconds it took,
over the rate of the best bfloat16 product that was found on the same card between the turns of the same run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.gpu_contestants import DEFAULT, ENTRIES, SHORT, Started, fitting, running
from benchmarks.gpu_workload import SHAPES, Work, supervised, written
from benchmarks.interleave import interleaved, ratio
from benchmarks.peers.pipe import Contestant
from benchmarks.workload import write_rows
from keeptune.core.machine import calm_process

WARM = 1  # turns that do not count, behind the very first one
FIRST = {"lead": 1, "steps": 1}  # that one: it tells what a first step costs
TURN = {"lead": 2, "steps": 4}
STEPS = TURN["steps"]
LIMIT = 2e-3  # between losses of the first step
BATCH = {("1b", "alpaca"): 8, ("8b", "alpaca"): 8, ("1b", "full"): 4, ("8b", "full"): 2}
GIB = 1 << 30


@dataclass
class Race:
    """What the turns of a comparison gave.

    Attributes:
        answers: of each contestant, one for each turn that counts.
        first: the answer to the very first turn of each.
        rates: of the best product, operations per second, in each round.
    """

    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    first: dict[str, dict[str, Any]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)


def race(started: Started, roof: Contestant, rounds: int, seed: int, *, lend: bool) -> Race:
    """The turns of all who stand; whoever fails in its first turn, or starts from another loss than we, is out."""
    found = Race()
    for name, child in list(started.children.items()):
        answer = started.trying(name, partial(child.ask, **FIRST, lend=lend))
        if answer is not None:
            found.first[name] = answer
    if "own" not in found.first:
        raise SystemExit(f"Our own step did not run: {started.failures['own']}")
    check_losses(started, {name: answer["losses"][0] for name, answer in found.first.items()})
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in started.children}

    def turn(name: str) -> Callable[[int], float]:
        def take(_: int) -> float:
            answers[name].append(started.children[name].ask(**TURN, lend=lend))
            return float(answers[name][-1]["seconds"])

        return take

    def product(_: int) -> float:
        found.rates.append(float(roof.ask()["rate"]))
        return 0.0

    interleaved({**{name: turn(name) for name in answers}, "product": product}, rounds, seed, warm=WARM)
    found.answers = {name: given[WARM:] for name, given in answers.items()}
    return found


def check_losses(started: Started, first: dict[str, float]) -> None:
    """Everybody starts from the same loss: A is random, B is zero, the weights and rows are the same."""
    for name, loss in first.items():
        if abs(loss - first["own"]) >= LIMIT:
            started.leaves(name, f"starts at a loss of {loss}, not {first['own']}")


def lends(work: Work) -> bool:
    """Whether what one holds while it waits could be what another lacks."""
    return work.shape == "8b" or work.rows == "full"


def steps_of(rounds: int) -> int:
    """Steps that each contestant takes in all, and the one that it stands before at the end."""
    return sum(FIRST.values()) + (WARM + rounds) * sum(TURN.values()) + 1


def timed_rows(rows: Sequence[Any], batch: int, rounds: int) -> list[list[Any]]:
    """The rows of each step that counts, by turn."""
    steps = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    begins = [sum(FIRST.values()) + (WARM + turn) * sum(TURN.values()) + TURN["lead"] for turn in range(rounds)]
    return [steps[begin : begin + STEPS] for begin in begins]


def side(name: str, found: Race, seconds_until_ready: float, work: Work, turns: list[list[Any]]) -> dict[str, Any]:
    """One contestant's own figures.

    Args:
        name: the contestant.
        found: the race.
        seconds_until_ready: from the start of its process.
        work: what it computed.
        turns: the steps that were timed, by turn that counts.
    """
    answers, rate = found.answers[name], max(found.rates)
    seconds = np.array([answer["seconds"] for answer in answers])
    arithmetic = np.array([sum(work.useful(step) for step in turn) for turn in turns])
    tokens = np.array([sum(len(row["input_ids"]) for step in turn for row in step) for turn in turns])
    learned = np.array([sum(supervised(step) for step in turn) for turn in turns])
    return {
        "step_seconds": round(float(np.median(seconds)) / STEPS, 5),
        "wall_seconds": round(float(np.median([answer["wall_seconds"] for answer in answers])) / STEPS, 5),
        "tokens_per_second": round(float(np.median(tokens / seconds))),
        "supervised_per_second": round(float(np.median(learned / seconds))),
        "utilisation": ratio(list(arithmetic / rate), list(seconds)),
        "peak_gib": round(max(answer["highest"] for answer in answers) / GIB, 2),
        "seconds_until_ready": round(seconds_until_ready, 1),
        "first_step_seconds": round(found.first[name]["lead_seconds"], 2),
        "settings": answers[-1]["settings"],
    }


def alone(found: Race, started: Started, work: Work, turns: list[list[Any]]) -> dict[str, Any]:
    """Our row where no peer took part."""
    own = side("own", found, started.seconds["own"], work, turns)
    row = {"what": work.says, "own": ENTRIES["own"].says, "peer": None, "role": "own"}
    return {**row, "product_tflops": round(max(found.rates) / 1e12, 1), "own_side": own}


def beside(peer: str, found: Race, started: Started, work: Work, turns: list[list[Any]]) -> dict[str, Any]:
    """The row of one peer: both sides and their ratio turn by turn, or that its memory was short."""
    row = {**alone(found, started, work, turns), "peer": ENTRIES[peer].says, "role": ENTRIES[peer].role}
    if peer in started.failures:
        return {**row, "failed": started.failures[peer]}
    own, other = (found.first[name]["losses"][0] for name in ("own", peer))
    seconds, ours = ([answer["seconds"] for answer in found.answers[name]] for name in (peer, "own"))
    return {
        **row,
        "peer_side": side(peer, found, started.seconds[peer], work, turns),
        "speed": ratio(seconds, ours),
        "checked": {"first_loss": round(own, 5), "first_loss_of_the_peer": round(other, 5)},
        "versions_of_the_peer": started.children[peer].ready["versions"],
    }


def compare(
    work: Work, peers: Sequence[str], asked: argparse.Namespace, model: Path
) -> tuple[list[dict[str, Any]], Any]:
    """One interleaved run of ours and `peers`: the rows of the record, and the GPU."""
    device = "cpu" if asked.rehearse else "cuda"
    rows = work.draw(steps_of(asked.rounds), asked.seed)
    results = []
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        products = {"device": device, "products": work.products}
        roof = stack.enter_context(
            Contestant(sys.executable, "benchmarks.peers.best_product", products, folder / "roof")
        )
        given = {
            "model": str(model), "rows": str(write_rows(folder / "rows.json", rows)), "device": device,
            "attention": asked.attention,
        }  # fmt: skip
        started = stack.enter_context(running(["own", *peers], work, given, folder, rehearsed=asked.rehearse))
        found = race(started, roof, asked.rounds, asked.seed, lend=lends(work))
        counted = timed_rows(rows, work.batch, asked.rounds)
        if not peers:
            results.append(alone(found, started, work, counted))
        told = [peer for peer in peers if started.failures.get(peer, SHORT) == SHORT]
        results += [beside(peer, found, started, work, counted) for peer in told]
    return results, roof.ready["gpu"]


def kept(part: str, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Rows of other peers that the same libraries gave, before the new ones, and the commands that made all of them."""
    command = record.command("gpu_step")
    file = record.place("gpu_step", part)
    if not file.exists():
        return list(rows), command
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["versions"] != record.versions(*record.LIBRARIES):
        return list(rows), command
    commands = [one for one in report["command"].splitlines() if one != command]
    new = {(row["what"], row["peer"]) for row in rows}
    others = [row for row in report["rows"] if (row["what"], row["peer"]) not in new]
    return [*others, *rows], "\n".join([*(commands if others else []), command])


def write(work: Work, rows: list[dict[str, Any]], gpu: Any, asked: argparse.Namespace) -> None:
    """Writes what there is; a rehearsal is printed only."""
    settings: dict[str, Any] = {"rounds": asked.rounds, "steps_a_turn": sum(TURN.values()), "timed_steps": STEPS}
    if asked.rehearse:
        record.write("gpu_step", rows, seeds=[asked.seed], quick=True, **settings)
        return
    part = ".".join([f"{work.shape}-{work.rows}-{work.batch}", re.sub(r"\W+", "-", gpu["name"].lower())])
    both, commands = kept(part, rows)
    named = {"work": work.says, "gpu": gpu, "command": commands}
    record.write("gpu_step", both, seeds=[asked.seed], part=part, **settings, **named)


def options() -> argparse.Namespace:
    """What was asked for, with the defaults that depend on it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(set(SHAPES) - {"tiny"}), default="1b")
    parser.add_argument("--rows", choices=("alpaca", "full"), default="alpaca")
    parser.add_argument("--batch", type=int, help="rows of a step; unset: 8, or 4 and 2 full ones of 1b and 8b")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(ENTRIES), help="these contestants; we always take part")
    parser.add_argument("--together", type=int, help="peers at a time beside us; unset: 3 of 1b, 1 of 8b")
    parser.add_argument("--attention", help="of TRL at its best, as transformers calls it; unset: what can be imported")
    parser.add_argument("--models", type=Path, help="a folder for the weights, which then stay there")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the processor; prints")
    asked = parser.parse_args()
    asked.together = asked.together or (1 if asked.shape == "8b" else 3)
    asked.rounds = 2 if asked.rehearse else asked.rounds
    record.without_paths(MODELS=asked.models)
    asked.models = asked.models and asked.models.resolve()
    return asked


def main() -> int:
    """Measures and writes the record."""
    asked = options()
    if not asked.rehearse and not torch.cuda.is_available():
        raise SystemExit("This measurement needs a GPU; `--rehearse` shows on the processor that everything else runs.")
    work = Work(asked.shape, asked.rows, asked.batch or BATCH[asked.shape, asked.rows])
    if asked.rehearse:
        work = Work("tiny", asked.rows, asked.batch or 2, length=64)
    names = [name for name in asked.only or DEFAULT[asked.rows] if name != "own"]
    peers = fitting(names, rehearsed=asked.rehearse)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        model = written(work, asked.models or Path(made), asked.seed)
        for start in range(0, max(1, len(peers)), asked.together):
            found, gpu = compare(work, peers[start : start + asked.together], asked, model)
            rows += found
            write(work, rows, gpu, asked)
    return 0 if len(rows) == max(1, len(peers)) else 1


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
