"""The DPO step against TRL's preference trainer with PEFT: as it comes, at its fastest, and in float32.

    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build --only trl-1.14
    KEEPTUNE_PEERS=DIR python -m benchmarks.preference             # writes a record for the kind of processor
    KEEPTUNE_PEERS=DIR python -m benchmarks.preference --quick     # float32 alone, two rounds; prints

As `benchmarks.train_step`: every contestant runs its own training loop in its own process on the same pairs in the same
order, LoRA of rank 16 on all linear maps, the same A at the start, the base with its adapter off as the reference. The
losses of the first three steps have to agree; that of the first one alone would say nothing, for it is log 2 whatever
is computed. A pair is a prompt and two answers with the lengths of instruction data.

`roof` counts what a pair needs: its prompt once, both answers, the reference's forward pass, and no padding.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops, record, workload
from benchmarks.interleave import middle, ratio
from benchmarks.peak import peak
from benchmarks.train_step import PLAIN, QUIET, RANK, STEPS, WARM, Entry, meet, race, running
from keeptune.core.machine import calm_process

PAIRS = 4
"""Of a step: as many answers as a step of `train_step` has rows."""
LOSS = {"name": "dpo", "beta": 0.1}
COMPARED = 3
ENTRIES = {
    "own": Entry("keeptune, bf16", None, "bfloat16", "own"),
    "own-fp32": Entry("keeptune, fp32", None, "float32", "own"),
    "1.16": Entry("TRL 1.16 as it comes", "trl-1.16", None, "default"),
    "1.16-fast": Entry("TRL 1.16, without checkpointing", "trl-1.16", "bfloat16", "fastest", QUIET),
    "1.14": Entry("TRL 1.14 as it comes", "trl-1.14", None, "default"),
    "1.14-fast": Entry("TRL 1.14, without checkpointing", "trl-1.14", "bfloat16", "fastest", QUIET),
    "1.14-fp32": Entry("TRL 1.14, fp32", "trl-1.14", "float32", "float32", PLAIN),
}


def draw_pairs(count: int, seed: int) -> list[dict[str, list[int]]]:
    """Pairs of `prompt_ids`, `chosen_ids` and `rejected_ids`, each answer with its end."""
    generator, vocabulary = random.Random(seed), workload.SHAPE["vocab_size"]

    def draw(lengths: tuple[float, float, int, int]) -> list[int]:
        return [generator.randrange(3, vocabulary) for _ in range(workload.length(generator, *lengths))]

    names = ("prompt_ids", workload.PROMPT), ("chosen_ids", workload.ANSWER), ("rejected_ids", workload.ANSWER)
    ends = {"prompt_ids": []}
    return [{name: [*draw(lengths), *ends.get(name, [2])] for name, lengths in names} for _ in range(count)]


def useful(pairs: list[dict[str, list[int]]]) -> int:
    """Operations that a step on these pairs cannot leave out, the reference's forward pass included."""
    shape, work = flops.Shape.of(workload.SHAPE), flops.Work(0, 0, 0, 0)
    for pair in pairs:
        prompt = len(pair["prompt_ids"])
        learned = [[0] * prompt + [1] * len(pair[name]) for name in ("chosen_ids", "rejected_ids")]
        work += flops.Work.of(learned, shared=prompt - 1)
    return flops.low_rank_step(shape, work, RANK) + flops.forward(shape, work)


def padding(pairs: list[dict[str, list[int]]]) -> float:
    """Positions of padded batches of both answers, each behind its prompt, over tokens that a pair needs."""
    positions = needed = 0
    for start in range(0, len(pairs), PAIRS):
        step = pairs[start : start + PAIRS]
        whole = [len(one["prompt_ids"]) + len(one[name]) for one in step for name in ("chosen_ids", "rejected_ids")]
        positions += max(whole) * len(whole)
        needed += sum(whole) - sum(len(one["prompt_ids"]) - 1 for one in step)
    return positions / needed


def check_losses(last: dict[str, dict[str, Any]], own: str) -> None:
    """The first steps of everybody come to the same losses."""
    expected = last[own]["losses"][:COMPARED]
    for name, answer in last.items():
        limit = 1e-4 if ENTRIES[name].dtype == ENTRIES[own].dtype == "float32" else 2e-2
        for one, other in zip(answer["losses"], expected, strict=False):
            assert abs(one - other) < limit, f"{name} has the losses {answer['losses'][:COMPARED]}, not {expected}"


def compare(rounds: int, seed: int, names: list[str]) -> list[dict[str, Any]]:
    """One interleaved run over the contestants: the rows of the record."""
    entries = {name: ENTRIES[name] for name in names}
    pairs = draw_pairs(PAIRS * STEPS * (WARM + rounds), seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = workload.write_model(folder / "model", seed)
        given = workload.write_rows(folder / "rows.json", pairs)
        with running(entries, given, model, folder, trainer="preference", batch=PAIRS, losses=[LOSS]) as children:
            seconds, last = race(children, rounds, seed)
            versions = {name: child.ready["versions"] for name, child in children.items()}
    rates = {
        entry.dtype: peak(getattr(torch, str(entry.dtype)), 50) for entry in entries.values() if entry.role == "own"
    }
    steps = [pairs[start : start + PAIRS] for start in range(0, len(pairs), PAIRS)]
    work = [useful(step) for step in steps[STEPS - 1 :: STEPS][WARM:]]
    check_losses(last, "own-fp32")
    return [
        {
            "what": "DPO step", "own": entries[own].says, "peer": entries[peer].says, "role": entries[peer].role,
            "own_seconds": middle(seconds[own]), "peer_seconds": middle(seconds[peer]),
            "speed": ratio(seconds[peer], seconds[own]),
            "roof": ratio(seconds[peer], [each / rates[entries[own].dtype] for each in work]),
            "peak_mib": {name: last[name]["peak"] >> 20 for name in (own, peer)},
            "checked": {name: [round(loss, 5) for loss in last[name]["losses"][:COMPARED]] for name in (own, peer)},
            "padding": round(padding(pairs), 3), "versions_of_the_peer": versions[peer],
        }
        for own in entries if entries[own].role == "own"
        for peer in entries if entries[peer].role != "own" and meet(entries[own], entries[peer])
    ]  # fmt: skip


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name, entry in ENTRIES.items() if entry.dtype == "float32" or "bfloat16" in record.dtypes()]
    if asked.quick:
        names = [name for name in names if ENTRIES[name].dtype == "float32"]
    rounds = 2 if asked.quick else asked.rounds
    rows = compare(rounds, asked.seed, names)
    record.write(
        "preference", rows, seeds=[asked.seed], quick=asked.quick, by_units=True, rounds=rounds, steps_a_turn=STEPS
    )
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
