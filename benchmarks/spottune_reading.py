"""What the decisions of `benchmarks.spottune_text` say: how far tasks lie apart, and how far they would by chance.

    d = mean over pairs of tasks and over blocks of |mean over seeds of one - mean over seeds of the other|

By chance: the tasks of each seed are exchanged in every possible way; if the task did not matter, every exchange would
be as likely. p is the share of exchanges with a d at least as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations, product
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeptune.core.usage import hours_of
from keeptune.report.words import took

Floats = NDArray[np.float64]
KINDS = {"open": "blocks tuned, of the test prompts", "lean": "the policy's mean chance to tune, as noise would draw"}


def distance(values_STL: Floats) -> float:
    """How far tasks lie apart, of values per seed, task and block."""
    means_TL = values_STL.mean(0)
    pairs = combinations(range(len(means_TL)), 2)
    return float(np.mean([np.abs(means_TL[one] - means_TL[other]).mean() for one, other in pairs]))


def by_chance(values_STL: Floats) -> Floats:
    """The distance under every exchange within seeds; the first seed stays, since names of tasks do not matter."""
    orders = list(permutations(range(values_STL.shape[1])))
    first, rest = values_STL[:1], values_STL[1:]
    return np.array(
        [
            distance(
                np.concatenate([first, *(own[None, list(order)] for own, order in zip(rest, chosen, strict=True))])
            )
            for chosen in product(orders, repeat=len(rest))
        ]
    )


def readings(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """d, what chance gives, and p, for every arm and both ways of looking at a policy."""
    tasks, seeds = (list(dict.fromkeys(run[key] for run in runs)) for key in ("task", "seed"))
    found = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = {(run["seed"], run["task"]): run for run in runs if run["arm"] == arm}
        for kind in KINDS:
            values = np.array([[own[seed, task][kind] for task in tasks] for seed in seeds], dtype=np.float64)
            apart, chance = distance(values), by_chance(values)
            found.append({
                "arm": arm, "what": kind, "apart": apart, "chance": float(chance.mean()),
                "chance_95": float(np.quantile(chance, 0.95)), "p": float((chance >= apart - 1e-12).mean()),
                "tasks": {task: values[:, place].mean(0).tolist() for place, task in enumerate(tasks)},
                "mixed": mean(own[seed, task]["mixed"] for seed in seeds for task in tasks),
                "scores": {task: mean(own[seed, task]["score"] for seed in seeds) for task in tasks},
            })  # fmt: skip
    return found


def page(record: dict[str, Any]) -> str:
    """The result as a document."""
    found = record["rows"]
    tasks = list(record["base"])
    blocks = len(next(iter(found[0]["tasks"].values())))
    base = [f"{score:.1%}" for score in record["base"].values()]
    lines = [
        "# Does SpotTune tune other blocks for another task?",
        "",
        f"```sh\n{record['command']}\n```",
        "",
        "pocket (six blocks) learns three unlike tasks: `areas`, the embedded task (one of twelve labels), `reversal`, "
        "words in reversed order, and `polite`, five kinds of request that it answers already, now in a sentence. "
        f"{record['rows_each']['train']} training rows, {record['steps']} steps of {record['batch_tokens']:,} tokens, "
        f"{len(record['seeds'])} seeds; a seed begins all tasks with the same policy. Decisions are read on "
        f"{record['rows_each']['test']} test prompts, without noise. LoRA of rank 8 learns at "
        "0.002, a copy of the blocks at 0.001. " + took(hours_of(record["runs"]), record["machine"]["processor"]),
        "",
        f"| arm | policy moves at | {' | '.join(f'{task}, score' for task in tasks)} | blocks undecided |",
        "|---|---:|" + "---:|" * (len(tasks) + 1),
        f"| the base | – | {' | '.join(base)} | – |",
    ]
    for one in found:
        if one["what"] == "open":
            scores = " | ".join(f"{one['scores'][task]:.1%}" for task in tasks)
            rate = record["arms"][one["arm"]]["policy_rate"]
            lines.append(f"| {one['arm']} | {rate:g} | {scores} | {one['mixed']:.1f} of {blocks} |")
    lines += ["", "*Undecided*: some test prompts tune the block and others do not, mean over tasks and seeds."]
    for kind, says in KINDS.items():
        lines += ["", f"## {says[0].upper()}{says[1:]}", "",
                  f"| arm, task | {' | '.join(f'block {place + 1}' for place in range(blocks))} |",
                  "|---|" + "---:|" * blocks]  # fmt: skip
        own = [one for one in found if one["what"] == kind]
        for one in own:
            lines += [f"| {one['arm']}, {task} | {' | '.join(f'{100 * v:.0f}' for v in one['tasks'][task])} |"
                      for task in tasks]  # fmt: skip
        lines += ["", "| arm | tasks lie apart, points | by chance (95% below) | p |", "|---|---:|---:|---:|"]
        for one in own:
            chance = f"{100 * one['chance']:.1f} ({100 * one['chance_95']:.1f})"
            lines.append(f"| {one['arm']} | {100 * one['apart']:.1f} | {chance} | {one['p']:.4f} |")
    lines += [
        "",
        "*Apart*: mean over pairs of tasks and blocks of the difference of their means over seeds. By chance: the "
        f"tasks of each seed exchanged in every way, {6 ** (len(record['seeds']) - 1):,} ways. p is the share of ways "
        "that lie at least as far apart; beside each other one of the "
        f"{len(found)} needs {0.05 / len(found):.4f}.",
        "",
    ]
    return "\n".join(lines)
